"""A patched module runs a `forward` around its own: its class becomes a subclass of what it was.

A compiler takes for granted which hooks a module has, and checks its class before it runs what it has compiled. So a
patch that changes the class is never bypassed by code that was compiled before it, or for another model; without
the compiler it costs nothing. `isinstance`, names, signatures, copies and pickles stay as they were.
"""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from tokenmerge.backends.torch.patching.hook import Hook

ROLE = "_tokenmerge"
BASE = "_tokenmerge_base"
KIND = "_tokenmerge_kind"


class Role(Hook):
    """What a module does in a patched model, in place of the functions that `methods` names."""

    methods: tuple[str, ...] = ("forward",)
    kind = 0  # roles of another kind are compiled apart, each with a limit of its own

    def run(self, name: str, module: Any, original: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """One of these functions: the module, its own function, and what that is given."""
        raise NotImplementedError


def mark(module: nn.Module, role: Role, forward: Callable[..., Any] | None = None) -> None:
    """Give a module a role; `forward` is what it computes if it has none of its own."""
    module.__dict__[ROLE] = role
    kind: Any = type(module)
    module.__class__ = marked(kind, role.methods, role.kind, forward)


def unmark(module: nn.Module) -> None:
    """Take it off again. A class that somebody made of the marked one stays, and does what it did without us."""
    module.__dict__.pop(ROLE, None)
    base = type(module).__dict__.get(BASE)
    if base is not None:
        module.__class__ = base


def role_of(module: nn.Module) -> Role | None:
    """The role of a module."""
    role = module.__dict__.get(ROLE)
    return role if isinstance(role, Role) else None


@functools.cache
def marked(
    base: Any, methods: tuple[str, ...], kind: int, forward: Callable[..., Any] | None = None
) -> type[nn.Module]:
    """The subclass of a class whose instances do something else in some methods, if they have a role of this kind."""
    names = {name: _method(name, forward if forward and name == "forward" else getattr(base, name)) for name in methods}
    own: dict[str, Any] = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    own |= {BASE: base, KIND: (kind, forward), "__reduce_ex__": _reduce, "__prepare_scriptable__": _script} | names
    return type(base.__name__, (base,), own)


def _method(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        role = self.__dict__.get(ROLE)
        if role is None:
            return original(self, *args, **kwargs)
        return role.run(name, self, original, args, kwargs)

    own: Any = method
    own.__code__ = own.__code__.replace(co_name=name)  # code of its own, because a compiler counts by it
    return own


def _script(self: Any) -> Any:
    """What TorchScript asks for before it reads a module."""
    if role_of(self) is not None:
        raise RuntimeError("patch: a patched model cannot be scripted: use torch.jit.trace or torch.export")
    return self


def _reduce(self: Any, protocol: Any) -> Any:
    """As the module itself would be pickled or copied, and marked again."""
    cls = type(self)
    base = next(each.__dict__[BASE] for each in cls.__mro__ if BASE in each.__dict__)
    made, arguments, *rest = base.__reduce_ex__(self, protocol)
    if made is copyreg.__newobj__ and arguments[0] is cls and BASE in cls.__dict__:  # type: ignore[attr-defined]
        methods = tuple(name for name in cls.__dict__ if name in self.__dict__[ROLE].methods)
        return (_again, (base, methods, *cls.__dict__[KIND], *arguments[1:]), *rest)
    return (made, arguments, *rest)


def _again(
    base: Any, methods: tuple[str, ...], kind: int, forward: Callable[..., Any] | None, *arguments: Any
) -> nn.Module:
    cls = marked(base, methods, kind, forward)
    return cls.__new__(cls, *arguments)
