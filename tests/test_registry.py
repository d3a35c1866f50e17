"""Backends and mergers by name."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import tokenmerge
from tokenmerge import available_backends, get_merger, register_backend
from tokenmerge.backends import get_backend, registry


@pytest.fixture
def no_new_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_MODULES", dict(registry._MODULES))
    monkeypatch.setattr(registry, "_LOADED", dict(registry._LOADED))


def a_backend(name: str = "mine") -> ModuleType:
    module = ModuleType(name)
    vars(module).update(
        {key: getattr(get_backend("numpy"), key) for key in ("MERGERS", "DTYPES", "VERSION", "devices")}
    )
    vars(module).update(NAME=name, from_numpy=None, to_numpy=None)
    return module


def test_ours_are_all_available() -> None:
    found = available_backends()
    assert set(found) >= {"spec", "numpy", "torch", "jax"}
    assert all(info.available and info.version and info.devices and info.install is None for info in found.values())


def test_unknown_merger_names_the_closest() -> None:
    with pytest.raises(ValueError, match=r"`name` must be one of 'tome', 'ats'.*got 'ToMee' \(did you mean 'tome'\?\)"):
        get_merger("ToMee")


def test_unknown_option_names_the_closest() -> None:
    with pytest.raises(TypeError, match=r"tome: `protect` must be an option.*did you mean 'protected'"):
        get_merger("tome", r=1, protect=1)


def test_missing_option() -> None:
    with pytest.raises(TypeError, match="ltm: `compression_ratio` must be given, got nothing"):
        get_merger("ltm", dim=4)


def test_unknown_module() -> None:
    with pytest.raises(ValueError, match=r"`backend` must be a module that can be imported, got 'no.such.module'"):
        get_merger("tome", backend="no.such.module", r=1)


def test_missing_framework_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("tokenmerge.backends.jax")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(tokenmerge.backends, "jax", raising=False)
    monkeypatch.setitem(sys.modules, "flax", None)
    monkeypatch.setattr(registry, "_LOADED", {})
    with pytest.raises(ImportError, match=r'backend "jax" needs flax: pip install jax flax'):
        get_merger("tome", backend="jax", r=1)
    info = available_backends()["jax"]
    assert not info.available
    assert "pip install" in str(info.install)


@pytest.mark.usefixtures("no_new_backends")
def test_register_a_module() -> None:
    register_backend("mine", a_backend())
    assert available_backends()["mine"].available
    assert get_merger("tome", backend="mine", r=1).plan is not None
    with pytest.raises(ValueError, match="`name` must be a new one, got 'mine'"):
        register_backend("mine", "somewhere.else")


@pytest.mark.usefixtures("no_new_backends")
def test_register_something_that_is_no_backend() -> None:
    with pytest.raises(ValueError, match=r"must have NAME, VERSION, MERGERS.*got 'empty' without"):
        register_backend("empty", ModuleType("empty"))


def test_a_dotted_module_needs_no_registration() -> None:
    assert get_merger("tome", backend="tokenmerge.backends.numpy", r=1).r == 1


def test_entry_points_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_announced", lambda: {"announced": "tokenmerge.backends.numpy"})
    assert get_merger("tome", backend="announced", r=1).r == 1


def test_own_kernels_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_backend = pytest.importorskip("tokenmerge.backends.torch")
    assert available_backends()["numpy"].kernels is None
    monkeypatch.setattr(torch_backend, "kernels_in_use", lambda: "triton 9 on cuda")
    assert available_backends()["torch"].kernels == "triton 9 on cuda"


# Versions


@pytest.mark.parametrize(("package", "backend", "found"), [("torch", "torch", "2.5.1+cpu"), ("flax", "jax", "0.9.0")])
def test_a_framework_that_is_too_old(package: str, backend: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_LOADED", {})
    known = registry.version
    monkeypatch.setattr(registry, "version", lambda name: found if name == package else known(name))
    sentence = f'backend "{backend}" needs {package} >= {registry.OLDEST[package]}, got {found}: pip install --upgrade'
    with pytest.raises(ImportError, match=re.escape(sentence)):
        get_backend(backend)


@pytest.mark.parametrize("found", ["2.13.0+cpu", "3", "2.15.0a0+git12"])
def test_newer_ones_and_those_without_numbers_pass(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "version", lambda name: found)
    registry._check_versions("torch")


def test_bounds_are_those_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    needs = [need for needs in project["optional-dependencies"].values() for need in needs]
    bounds = dict(need.split(">=") for need in needs if ">=" in need)
    assert registry.OLDEST.items() <= bounds.items()
