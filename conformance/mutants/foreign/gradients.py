"""Foreign bugs of gradients, in PyTorch: right on the way there, wrong on the way back."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from tokenmerge.conformance.mutants.edited import Edit
from tokenmerge.conformance.mutants.frameworks import calling
from tokenmerge.conformance.mutants.mutant import Change, Mutant, variant


def _mutant(name: str, what: str, change: tuple[Edit, ...] | Change, *mergers: str, dtype: str = "float64") -> Mutant:
    return Mutant(f"foreign-torch-{name}", "CALL-6", what, change, mergers, "torch", dtype)


def _doubled(values: Any) -> Any:
    """The same values, and twice the gradient."""
    return 2 * values - values.detach()


def _with_tokens(change: Callable[..., Any]) -> Callable[..., Any]:
    """A call whose merged tokens go through `change(tokens, x, arguments)`."""

    def call(merger: Any, x: Any, **arguments: Any) -> Any:
        made = merger(x, **arguments)
        return made._replace(tokens=change(made.tokens, x, arguments))

    return call


def _straight_through(name: str) -> Callable[..., Any]:
    def change(tokens: Any, x: Any, arguments: Any) -> Any:
        given = arguments.get(name)
        if given is None or not given.numel():
            return tokens
        score = given.flatten(1).square().mean(dim=1)[:, None, None]
        return tokens + (score - score.detach()).nan_to_num().to(tokens.dtype)

    return _with_tokens(change)


def _detached(name: str, when: Callable[[Any], bool] = lambda x: True) -> Callable[..., Any]:
    def call(merger: Any, x: Any, **arguments: Any) -> Any:
        given = arguments.get(name)
        if given is not None and when(x):
            arguments[name] = given.detach()
        return merger(x, **arguments)

    return call


def _parameter_detached(name: str, when: Callable[[Any], bool]) -> Change:
    """The function `plan` of a room with a parameter that has no gradient, where `when(x)`."""

    def change(module: ModuleType) -> ModuleType:
        room = "ltm" if name == "weight" else "patch_merger"
        own = getattr(module, room)

        def plan(x: Any, **options: Any) -> Any:
            if when(x) and options.get(name) is not None:
                options[name] = options[name].detach()
            return own.plan(x, **options)

        return variant(module, **{room: variant(own, plan=plan)})

    return change


def _around(room: str, name: str, change: Callable[..., Any]) -> Change:
    """A function of a room whose arguments go through `change(arguments)`."""

    def changed(module: ModuleType) -> ModuleType:
        own = getattr(getattr(module, room), name)

        def function(*arrays: Any, **options: Any) -> Any:
            return own(*arrays, **change(options))

        return variant(module, **{room: variant(getattr(module, room), **{name: function})})

    return changed


def _sizes_blocked(options: dict[str, Any]) -> dict[str, Any]:
    return options | ({"size": options["size"].detach()} if options.get("size") is not None else {})


def _samples_blocked(tokens: Any, x: Any, arguments: Any) -> Any:
    import torch

    return torch.cat([tokens[:2], tokens[2:].detach()])


def _empty_groups_nan(tokens: Any, x: Any, arguments: Any) -> Any:
    size = arguments.get("size")
    if size is None:
        return tokens
    full = (size != 0).all(dim=1)[:, None, None].to(tokens.dtype)
    zero = (x.flatten(1).sum(dim=1)[:, None, None] * 0).nan_to_num()
    return tokens + ((zero + full).sqrt() - full)  # 0, and its gradient is 0 / 0 where a size is 0


MUTANTS = (
    _mutant(
        "metric-straight-through",
        "The metric receives a gradient, through the similarities.",
        calling("tome", _straight_through("metric")),
        "tome",
    ),
    _mutant(
        "attention-straight-through",
        "The attention of ATS receives a gradient, through the scores.",
        calling("ats", _straight_through("attn")),
        "ats",
    ),
    _mutant(
        "prior-blocked",
        "No gradient reaches a prior that is given: masks do not learn through the chain.",
        calling("ltm", _detached("prior")),
        "ltm",
    ),
    _mutant(
        "doubled-in-single",
        "The backward kernel, which is for float32 only, doubles the gradient.",
        calling("tome", _with_tokens(lambda t, x, _: _doubled(t) if "float32" in str(x.dtype) else t)),
        "tome",
        dtype="float32",
    ),
    _mutant(
        "doubled-from-32",
        "From N = 32 on the gradient is twice what it should be.",
        calling("tome", _with_tokens(lambda t, x, _: _doubled(t) if x.shape[1] >= 32 else t)),
        "tome",
    ),
    _mutant(
        "sizes-blocked-from-32",
        "From N = 32 on sizes receive no gradient.",
        calling("tome", _detached("size", lambda x: x.shape[1] >= 32)),
        "tome",
    ),
    _mutant(
        "samples-from-the-third-blocked",
        "Samples from the third on receive no gradient.",
        calling("tome", _with_tokens(_samples_blocked)),
        "tome",
    ),
    _mutant(
        "wide-tokens-blocked",
        "Tokens of more than 16 channels receive no gradient.",
        calling("patch_merger", _with_tokens(lambda t, x, _: t.detach() if x.shape[2] > 16 else t)),
        "patch_merger",
    ),
    _mutant(
        "unmerged-blocked",
        "No gradient goes through unmerge.",
        (
            Edit(
                "plan",
                "return gather_or_zero(y, self.assignment)",
                "return gather_or_zero(y.detach(), self.assignment)",
            ),
        ),
        "tome",
    ),
    _mutant(
        "planned-merge-blocked",
        "No gradient goes through plan.merge; the merger's call has a kernel of its own.",
        (Edit("plan", "return self.merge_both(x, size)[0]", "return self.merge_both(x.detach(), size)[0]"),),
        "tome",
    ),
    _mutant(
        "empty-group-nan",
        "Where a size is 0 the gradient of all is NaN.",
        calling("tome", _with_tokens(_empty_groups_nan)),
        "tome",
    ),
    _mutant(
        "weight-blocked-in-half",
        "In half precision the weight of LTM receives no gradient.",
        _parameter_detached("weight", lambda x: "16" in str(x.dtype)),
        "ltm",
        dtype="bfloat16",
    ),
    _mutant(
        "queries-blocked-from-32",
        "From N = 32 on the queries receive no gradient.",
        _parameter_detached("queries", lambda x: x.shape[1] >= 32),
        "patch_merger",
    ),
    _mutant(
        "attended-sizes-blocked",
        "Sizes receive no gradient through attention.",
        _around("attention", "attention", _sizes_blocked),
    ),
    _mutant(
        "pooled-sizes-blocked",
        "Sizes receive no gradient through pooling.",
        _around("pooling", "mean_pool", _sizes_blocked),
    ),
)
