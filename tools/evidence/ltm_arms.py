"""The networks that are compared: every merger where its network costs three quarters of the plain one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tokenmerge import ATSMerging, LTMMerging, PatchMergerMerging, ToMeMerging, ViTConfig
from tokenmerge.spec.shared.description import Merging
from tokenmerge.spec.shared.flops import flops

SIDE, PATCHES = 20, 25
SIZES: dict[str, Any] = dict(image_size=SIDE, patch_size=4, channels=1, num_classes=10, dim=32, heads=2, mlp_dim=128)
DEPTH, SHARE = 4, 0.75  # blocks; of the plain network's multiply-adds


class Arm(NamedTuple):
    """One of the compared.

    Attributes:
        title: as in tables; make: a merging from an integer, None for none; most: the largest that can be.
        bound: whether the bound is in the loss; fixed: whether masks stay at their prior; depth: blocks.
    """

    title: str
    make: Callable[[int], Merging] | None = None
    most: int = PATCHES
    bound: bool = False
    fixed: bool = False
    depth: int = DEPTH


ARMS = {
    "plain": Arm("plain ViT"),
    "shallow": Arm("plain ViT, a block less", depth=DEPTH - 1),
    "ltm": Arm("LTM, without the loss", lambda slots: LTMMerging(compression_ratio=slots / PATCHES)),
    "ltm_bound": Arm("LTM, with the loss", lambda slots: LTMMerging(compression_ratio=slots / PATCHES), bound=True),
    "fixed": Arm(
        "LTM, masks left at the prior", lambda slots: LTMMerging(compression_ratio=slots / PATCHES), fixed=True
    ),
    "tome": Arm("ToMe", lambda r: ToMeMerging(r=r), most=PATCHES // 2),
    "ats": Arm("ATS", lambda tokens: ATSMerging(max_tokens=tokens)),
    "patch_merger": Arm("PatchMerger", lambda slots: PatchMergerMerging(num_tokens_out=slots)),
}


def config(name: str) -> ViTConfig:
    """The network of an arm: with the amount of merging that brings it nearest to `SHARE` of the plain one."""
    arm = ARMS[name]
    make = arm.make
    if make is None:
        return _network(None, arm.depth)
    wanted = SHARE * flops(_network(None, DEPTH)).total
    made = (_network(make(amount), DEPTH) for amount in range(1, arm.most + 1))
    return min(made, key=lambda network: abs(flops(network).total - wanted))


def rate(name: str) -> str:
    """How much an arm merges, as printed.

    >>> rate("plain"), rate("ltm")
    ('', 'ρ = 0.4')
    """
    merging = config(name).merging
    return f"{merging.DESCRIPTION.symbol} = {merging.knob}" if isinstance(merging, Merging) else ""


def _network(merging: Merging | None, depth: int) -> ViTConfig:
    needs = {"pool": "class", "fc_norm": False, **(merging.NETWORK if merging else {})}
    return ViTConfig(**SIZES, depth=depth, **needs, merging=merging)
