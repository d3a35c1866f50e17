"""The mergers of a patched network, block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from typing import Any, NamedTuple

from tokenmerge.backends.jax.ats import ATS
from tokenmerge.backends.jax.ltm import LTM
from tokenmerge.backends.jax.merger import Merger
from tokenmerge.backends.jax.patch_merger import PatchMerger
from tokenmerge.backends.jax.tome import ToMe
from tokenmerge.spec.shared.arguments import check_choice, check_integer, check_names
from tokenmerge.spec.shared.schedule import merge_schedule

Mergers = list[Merger | None]


class Network(NamedTuple):
    """What a merger has to know: the number of blocks, C, and the tokens in front of the patches, which it protects."""

    depth: int
    width: int
    prefix: int


def mergers(name: str, options: dict[str, Any], depth: int, width: int, prefix: int) -> Mergers:
    """The merger of every block, None where a block merges nothing.

    Args:
        name, options: as `patch` takes them.
        depth: blocks. width: C. prefix: tokens in front of the patches, which are protected.

    Raises:
        TypeError, ValueError: an unknown name or option, or a value out of range.

    >>> [None if merger is None else merger.r for merger in mergers("tome", {"r": [4, 0]}, 3, 8, 1)]
    [4, None, None]
    """
    check_choice("patch", "name", name, METHODS)
    known = {each.name: each.default for each in signature(METHODS[name]).parameters.values() if each.name != "network"}
    check_names("patch", options, known, "option")
    for option, default in known.items():
        if default is Parameter.empty and option not in options:
            raise TypeError(f"patch: `{option}` must be given with {name!r}, got nothing")
    return METHODS[name](Network(depth, width, prefix), **options)


def place(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Where plans act, and whether attention counts sizes: `around` and `proportional` of a `Stream`.

    >>> place("tome", {"around": "mlp"}), place("ltm", {})
    ({'around': 'mlp', 'proportional': False}, {'around': 'mlp', 'proportional': False})
    """
    around = options.get("around", "mlp" if name == "ltm" else None)
    if around is not None:
        check_choice("patch", "around", around, ("mlp", "block"))
    return {"around": around, "proportional": bool(options.get("prop_attn", name == "tome")) and around != "mlp"}


def _tome(
    network: Network,
    *,
    r: Any,
    prop_attn: bool = True,
    order: str = "grouped",
    protected: int | None = None,
    around: str | None = None,
) -> Mergers:
    front = network.prefix if protected is None else protected
    removed = merge_schedule(r, network.depth)
    return [ToMe(r=each, protected=front, order=order) if each else None for each in removed]


def _ats(network: Network, *, max_tokens: int | Sequence[int], score: str = "per_head") -> Mergers:
    budgets = [max_tokens] * network.depth if isinstance(max_tokens, int) else list(max_tokens)
    if len(budgets) > network.depth:
        raise ValueError(f"patch: `max_tokens` must have at most {network.depth} entries, got {len(budgets)}")
    return [*(ATS(budget, score=score) for budget in budgets), *[None] * (network.depth - len(budgets))]


def _patch_merger(
    network: Network,
    *,
    num_tokens_out: int = 8,
    layer: int | None = None,
    logit_scale: float | None = None,
    seed: int = 0,
) -> Mergers:
    layer = max(network.depth // 2, 1) if layer is None else layer
    check_integer("patch", "layer", layer, minimum=1)
    if layer > network.depth:
        raise ValueError(f"patch: `layer` must be at most {network.depth}, the number of blocks, got {layer}")
    merger = PatchMerger(network.width, num_tokens_out, logit_scale, seed=seed)
    return [merger if index == layer - 1 else None for index in range(network.depth)]


def _ltm(
    network: Network,
    *,
    compression_ratio: float,
    protected: int | None = None,
    prior_smoothing: float = 0.1,
    around: str | None = "mlp",
) -> Mergers:
    front = network.prefix if protected is None else protected
    options: dict[str, Any] = {"protected": front, "prior_smoothing": prior_smoothing}
    return [LTM(network.width, compression_ratio, **options) for _ in range(network.depth)]


METHODS: dict[str, Callable[..., Mergers]] = {"tome": _tome, "ats": _ats, "patch_merger": _patch_merger, "ltm": _ltm}
