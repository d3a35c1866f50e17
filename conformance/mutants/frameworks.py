"""PyTorch and JAX, broken: gradients and compilation.

These mutants are made from the finished backend, not from its source, and load the framework when they are built.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from tokenmerge.conformance.mutants.mutant import Change, Mutant, variant


class _Changed:
    """A merger that changes what comes out, and is otherwise the correct one."""

    def __init__(self, merger: Any, change: Callable[..., Any]) -> None:
        self.merger, self.change = merger, change

    def __call__(self, x: Any, **arguments: Any) -> Any:
        return self.change(self.merger, x, **arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.merger, name)


def calling(name: str, call: Callable[..., Any]) -> Change:
    """A change of one merger: `call(merger, x, **arguments)` takes the place of `merger(x, **arguments)`."""

    def change(module: ModuleType) -> ModuleType:
        make = module.MERGERS[name]
        return variant(module, MERGERS=module.MERGERS | {name: lambda **config: _Changed(make(**config), call)})

    return change


def _blocked(merger: Any, x: Any, **arguments: Any) -> Any:
    made = merger(x, **arguments)
    return made._replace(tokens=made.tokens.detach())


def _sizes_blocked(merger: Any, x: Any, size: Any = None, **arguments: Any) -> Any:
    return merger(x, size=None if size is None else size.detach(), **arguments)


def _leaking(merger: Any, x: Any, **arguments: Any) -> Any:
    made = merger(x, **arguments)
    score = x.square().mean()
    return made._replace(tokens=made.tokens * (1 + score - score.detach()))


def _weights_fixed(module: ModuleType) -> ModuleType:
    def plan(*arguments: Any, **options: Any) -> Any:
        made = module.ltm.plan(*arguments, **options)
        return module.DensePlan(made.weights.detach(), made.mask)

    return variant(module, ltm=variant(module.ltm, plan=plan))


def _traced_anew(module: ModuleType) -> ModuleType:
    def compile(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arrays: module.compile(lambda *values: function(*values))(*arrays)

    return variant(module, compile=compile)


def _inputs_baked_in(module: ModuleType) -> ModuleType:
    def compile(function: Callable[..., Any]) -> Callable[..., Any]:
        first: list[Any] = []

        def call(*arrays: Any) -> Any:
            first.extend(arrays[len(first) :])
            return run()

        run = module.compile(lambda: function(*first))
        return call

    return variant(module, compile=compile)


def _compiled_in_half(module: ModuleType) -> ModuleType:
    def rounded(array: Any) -> Any:
        return array.astype("bfloat16").astype(array.dtype) if array.dtype == "float32" else array

    def compile(function: Callable[..., Any]) -> Callable[..., Any]:
        return module.compile(lambda *values: function(*(rounded(value) for value in values)))

    return variant(module, compile=compile)


MUTANTS = (
    Mutant(
        "torch-gradient-blocked",
        "CALL-6",
        "Merged tokens are cut off from the graph.",
        calling("tome", _blocked),
        ("tome",),
        "torch",
        "float64",
    ),
    Mutant(
        "torch-sizes-blocked",
        "CALL-6",
        "The mean of a group has no gradient with respect to the sizes.",
        calling("tome", _sizes_blocked),
        ("tome",),
        "torch",
        "float64",
    ),
    Mutant(
        "torch-gradient-leaks",
        "CALL-6",
        "The scores behind the decision are multiplied in with value one, to give them a gradient.",
        calling("ats", _leaking),
        ("ats",),
        "torch",
        "float64",
    ),
    Mutant(
        "torch-weights-fixed",
        "CALL-6",
        "The soft weights of LTM are taken for constants.",
        _weights_fixed,
        ("ltm",),
        "torch",
        "float64",
    ),
    Mutant(
        "jax-traced-anew",
        "CALL-7",
        "Every call of a compiled function traces and compiles it anew.",
        _traced_anew,
        ("patch_merger",),
        "jax",
    ),
    Mutant(
        "jax-inputs-baked-in",
        "CALL-7",
        "A compiled function takes the arrays of its first call for constants.",
        _inputs_baked_in,
        ("patch_merger",),
        "jax",
    ),
    Mutant(
        "jax-compiled-in-half",
        "CALL-7",
        "Compiled calls round their inputs to bfloat16 first.",
        _compiled_in_half,
        ("tome",),
        "jax",
    ),
)
