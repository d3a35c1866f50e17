"""Backends by name: ours, those announced in the entry-point group `tokenmerge.backends`, and those registered by hand.

A backend is a module; it is imported when it is first asked for, so `import tokenmerge` loads no framework.
"""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from tokenmerge.spec.shared.arguments import shown

ENTRY_POINT_GROUP = "tokenmerge.backends"

# name -> module; and what the module needs: package -> what installs it
_MODULES = {
    "spec": "tokenmerge.spec.batch",
    "numpy": "tokenmerge.backends.numpy",
    "torch": "tokenmerge.backends.torch",
    "jax": "tokenmerge.backends.jax",
}
_NEEDS = {"torch": ("torch",), "jax": ("jax", "flax")}
OLDEST = {"torch": "2.9", "jax": "0.7.2", "flax": "0.11"}  # as pyproject.toml says


@dataclass(frozen=True)
class BackendInfo:
    """One backend, as it is installed here.

    Attributes:
        name: the name to give to `get_merger`.
        available: whether it imports.
        version: the framework's version, or None.
        devices: where its arrays can live, empty if it does not import.
        dtypes: the dtypes it supports.
        kernels: what runs kernels of its own and where, such as "triton 3.6.0 on cuda"; None where everything is done
            by the framework's operations.
        install: how to get it, or why it does not import; None where it is available.
    """

    name: str
    available: bool
    version: str | None = None
    devices: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    install: str | None = None
    kernels: str | None = None


def register_backend(name: str, module: str | ModuleType) -> None:
    """Make a backend known under a name, for this process.

    Args:
        name: what `get_merger(..., backend=name)` will say.
        module: the module, or its dotted name, which is then imported when first asked for; see docs/backends.md.

    Raises:
        TypeError, ValueError: no name, or one that is taken; no module, or none of a backend.

    >>> register_backend("numpy", "my.backend")
    Traceback (most recent call last):
    ...
    ValueError: register_backend: `name` must be a new one, got 'numpy', which is tokenmerge.backends.numpy
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"register_backend: `name` must be a name, got {shown(name)}")
    if not isinstance(module, (str, ModuleType)) or not module:
        raise TypeError(f"register_backend: `module` must be a module or the dotted name of one, got {shown(module)}")
    known = _known()
    if name in known:
        raise ValueError(f"register_backend: `name` must be a new one, got {name!r}, which is {known[name]}")
    if isinstance(module, ModuleType):
        _check_backend(name, module)
        _LOADED[name] = module
        module = module.__name__
    _MODULES[name] = module


def available_backends() -> dict[str, BackendInfo]:
    """Every known backend, and how to install those that are missing.

    Imports each of them. The reference itself, `backend="spec"`, is one of them.

    >>> available_backends()["numpy"].devices
    ('cpu',)
    """
    return {name: _info(name) for name in _known()}


def _info(name: str) -> BackendInfo:
    """One backend; whatever somebody else's does, `sys.exit()` on import too, must not take the others with it."""
    try:
        module = get_backend(name)
        kernels = module.kernels_in_use() if hasattr(module, "kernels_in_use") else None
        devices, dtypes = (tuple(str(each) for each in listed) for listed in (module.devices(), module.DTYPES))
        version, kernels = (None if value is None else str(value) for value in (module.VERSION, kernels))
    except ImportError as error:
        return BackendInfo(name, available=False, install=str(error))
    except (Exception, SystemExit) as error:
        return BackendInfo(name, available=False, install=f'backend "{name}" does not import: {shown(error)}')
    return BackendInfo(name, True, version, devices, dtypes, kernels=kernels)


def get_backend(name: str) -> ModuleType:
    """The backend's module, by name or by the dotted name of a module that nobody registered.

    Raises:
        ValueError: no backend of this name.
        ImportError: its framework is not installed; the sentence says what to install.

    >>> get_backend("nunpy")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: get_backend: `backend` must be one of 'jax', 'numpy', 'spec', 'torch' or a module, got 'nunpy'...
    """
    if isinstance(name, str) and name in _LOADED:
        return _LOADED[name]
    known = _known()
    if not isinstance(name, str) or (name not in known and not _is_dotted(name)):
        close = difflib.get_close_matches(name, known, n=1) if isinstance(name, str) else []
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        names = ", ".join(repr(each) for each in sorted(known))
        error = ValueError if isinstance(name, str) else TypeError
        raise error(f"get_backend: `backend` must be one of {names} or a module, got {shown(name)}{hint}")
    _check_versions(name)
    path = known.get(name, name)
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in _NEEDS.get(name, ()):
            install = " ".join(_NEEDS[name])
            raise ImportError(f'backend "{name}" needs {missing}: pip install {install}') from None
        if name not in known and (error.name == path or path.startswith(f"{error.name}.")):
            raise ValueError(f"get_backend: `backend` must be a module that can be imported, got {name!r}") from None
        raise
    _check_backend(name, module)
    _LOADED[name] = module
    return module


def own_way(module: ModuleType) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """How functions are run in a backend: its `run`, or as they are."""
    run: Callable[[Callable[..., Any]], Callable[..., Any]] = getattr(module, "run", lambda function: function)
    return run


def channels_first(module: ModuleType) -> bool:
    """Whether a backend's networks take images with channels first."""
    return bool(getattr(module, "CHANNELS_FIRST", False))


_LOADED: dict[str, ModuleType] = {}


def _check_versions(name: str) -> None:
    """Whether what a backend of ours needs is new enough, asked before its import fails in the middle."""
    for package in _NEEDS.get(name, ()):
        try:
            found = version(package)
        except PackageNotFoundError:  # the import says it, or it was never installed by pip
            continue
        oldest = OLDEST[package]
        if _numbers(found) < _numbers(oldest):
            raise ImportError(
                f'backend "{name}" needs {package} >= {oldest}, got {found}: pip install --upgrade {package}'
            )


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers at the beginning of a version: `2.13.0+cpu` is (2, 13, 0)."""
    return tuple(int(part) for part in re.match(r"[\d.]*\d|", text)[0].split(".") if part)  # type: ignore[index]


def _is_dotted(name: str) -> bool:
    """Whether a name may be that of a module that nobody registered: identifiers with dots between.

    A module without a dot is imported only where it has been already, or is a package of its own: names such as `this`
    run code of nobody's backend.
    """
    return all(part.isidentifier() for part in name.split(".")) and ("." in name or _is_package(name))


def _is_package(name: str) -> bool:
    try:
        return find_spec(name) is not None and name not in sys.stdlib_module_names
    except (ImportError, ValueError, AttributeError):
        return False


def _known() -> dict[str, str]:
    return {**_announced(), **_MODULES}


@cache
def _announced() -> dict[str, str]:
    return {entry.name: entry.value for entry in entry_points(group=ENTRY_POINT_GROUP)}


def _check_backend(name: str, module: ModuleType) -> None:
    needed = ("NAME", "VERSION", "MERGERS", "DTYPES", "from_numpy", "to_numpy", "devices")
    missing = [attribute for attribute in needed if not hasattr(module, attribute)]
    if missing:
        raise ValueError(
            f"get_backend: `backend` must have {', '.join(missing)}, got {name!r} without (docs/backends.md)"
        )
