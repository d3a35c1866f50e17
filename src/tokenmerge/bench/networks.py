"""Whole vision transformers with a merger, next to the same network without, and next to the textbook's way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tokenmerge.bench.row import Case, Work
from tokenmerge.bench.subject import Subject
from tokenmerge.spec.flops import flops
from tokenmerge.spec.vit_config import AtsMerging, PatchMergerMerging, ToMeMerging, ViTConfig

NETWORKS: dict[str, dict[str, Any]] = {
    "vit_base_patch16_224": {},
    "vit_small_patch16_224": {"dim": 384, "heads": 6},
    "vit_large_patch16_384": {"image_size": 384, "dim": 1024, "depth": 24, "heads": 16},
}
RATES = {"vit_large_patch16_384": 23}


def merging(name: str, network: str) -> Any:
    """The settings that are measured."""
    depth = NETWORKS[network].get("depth", 12)
    if name == "tome":
        return ToMeMerging(r=RATES.get(network, 16))
    if name == "ats":  # from the fourth block on, half the tokens and then a quarter
        return AtsMerging(max_tokens_per_depth=(10**4,) * 3 + (96,) * 3 + (48,) * (depth - 6))
    return PatchMergerMerging(patch_merge_layer=depth // 2, patch_merge_num_tokens=8)


MERGERS = ("tome", "ats", "patch_merger")


def cases(merger: str, subject: Subject, network: str, batch: int) -> Iterator[Case]:
    """A network with a merger: against itself without one, and in PyTorch against the textbook's way."""
    from tokenmerge import get_vit

    options = NETWORKS[network]
    if merger == "patch_merger":  # it leaves no class token
        options = options | {"pool": "mean"}
    plain, merged = ViTConfig(**options), ViTConfig(**options, merging=merging(merger, network))
    less, more = flops(merged).total, flops(plain).total
    height, width = (merged.patch_size * each for each in merged.grid)
    channels_first = subject.name == "torch"
    images = subject.array((batch, 3, height, width) if channels_first else (batch, height, width, 3))
    ours, unmerged = (_network(get_vit(config, backend=subject.name), subject) for config in (merged, plain))
    parameters = sum(value.size for value in ours.params().values())
    work = Work(parameters * subject.itemsize, batch * less)
    shape = {"network": network, "B": batch}

    def case(against: str, other: Any, predicted: float | None) -> Case:
        return Case(
            f"ViT with {merger}",
            subject.name,
            subject.where,
            subject.dtype,
            shape,
            ours=subject.call(lambda images: ours(images).logits, images),
            other=other,
            against=against,
            work=work,
            predicted=predicted,
        )

    yield case("unmerged", subject.call(lambda images: unmerged(images).logits, images), more / less)
    if subject.name == "torch":
        from tokenmerge.bench import textbook_vit

        yield case("textbook", subject.call(lambda images: textbook_vit.run(ours, images), images), None)


def _network(model: Any, subject: Subject) -> Any:
    """On its device, in its dtype, not training."""
    if subject.name != "torch":
        return model
    import torch

    return model.to(device=subject.where, dtype=getattr(torch, subject.dtype)).eval()
