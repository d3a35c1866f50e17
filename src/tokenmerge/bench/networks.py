"""Whole vision transformers with a merger, next to the same network without, and next to the textbook's way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tokenmerge.backends.registry import channels_first
from tokenmerge.bench.operators import compiled_case
from tokenmerge.bench.row import Case, Work
from tokenmerge.bench.subject import Subject
from tokenmerge.spec.ats import ATSMerging
from tokenmerge.spec.patch_merger import PatchMergerMerging
from tokenmerge.spec.shared.description import Merging
from tokenmerge.spec.shared.flops import flops
from tokenmerge.spec.shared.vit_config import ViTConfig
from tokenmerge.spec.tome import ToMeMerging

NETWORKS: dict[str, dict[str, Any]] = {
    "vit_base_patch16_224": {},
    "vit_small_patch16_224": {"dim": 384, "heads": 6},
    "vit_large_patch16_384": {"image_size": 384, "dim": 1024, "depth": 24, "heads": 16},
}
RATES = {"vit_large_patch16_384": 23}


def _tome(network: str, depth: int) -> Merging:
    return ToMeMerging(r=RATES.get(network, 16))


def _ats(network: str, depth: int) -> Merging:
    """From the fourth block on half the tokens, and then a quarter."""
    return ATSMerging(max_tokens=(10**4,) * 3 + (96,) * 3 + (48,) * (depth - 6))


def _patch_merger(network: str, depth: int) -> Merging:
    return PatchMergerMerging(layer=depth // 2, num_tokens_out=8)


MERGERS = {"tome": _tome, "ats": _ats, "patch_merger": _patch_merger}  # the settings that are measured


def merging(name: str, network: str) -> Merging:
    """The setting of a merger that is measured."""
    return MERGERS[name](network, NETWORKS[network].get("depth", 12))


def cases(merger: str, subject: Subject, network: str, batch: int, compiled: bool = False) -> Iterator[Case]:
    """A network with a merger: against itself without one; in PyTorch also against the textbook's way, against its
    merging alone, a share of it, and, if that is asked for, compiled against not compiled.
    """
    from tokenmerge import get_vit

    chosen = merging(merger, network)
    options = NETWORKS[network] | dict(chosen.NETWORK)
    plain, merged = ViTConfig(**options), ViTConfig(**options, merging=chosen)
    less, more = flops(merged).total, flops(plain).total
    height, width = (merged.patch_size * each for each in merged.grid)
    shape_of_images = (batch, 3, height, width) if channels_first(subject.backend) else (batch, height, width, 3)
    images = subject.array(shape_of_images)
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
        yield case("its merging alone", subject.call(_merging_alone(ours, subject, batch)), None)
        if compiled:
            yield compiled_case(
                f"ViT with {merger}", subject, shape, lambda images: ours(images).logits, (images,), work
            )


def _merging_alone(model: Any, subject: Subject, batch: int) -> Callable[[], None]:
    """What a network does for its mergers: the plans, with all that they are made of, and what they merge."""
    from tokenmerge.backends.torch.attention import attention_weights
    from tokenmerge.backends.torch.vit import take_queries

    heads, dim, calls = model.config.heads, model.config.dim, list[Callable[[], Any]]()
    for block in model.blocks:
        n, merger, place = block.step.tokens_in, block.merger, block.step.place
        x, size = subject.array((batch, n, dim)), subject.given(np.ones((batch, n)), "float32")
        key = subject.array((batch, heads, n, dim // heads), 1)
        if place == "mlp":

            def merge(merger: Any = merger, x: Any = x, key: Any = key, size: Any = size) -> Any:
                return merger(x, metric=key.mean(dim=1, dtype=size.dtype), size=size)
        elif place == "attention":

            def merge(merger: Any = merger, x: Any = x, key: Any = key, size: Any = size) -> Any:
                plan = merger.plan(attention_weights(key[:, :, :1], key, size=size)[:, :, 0], key)
                return plan.merge_both(x, size), take_queries(key, plan)
        elif place:

            def merge(merger: Any = merger, x: Any = x, key: Any = key, size: Any = size) -> Any:
                return merger(x)
        else:
            continue
        calls.append(merge)

    def every() -> None:
        for call in calls:
            call()

    return every


def _network(model: Any, subject: Subject) -> Any:
    """On its device, in its dtype, not training."""
    if subject.name != "torch":
        return model
    import torch

    return model.to(device=subject.where, dtype=getattr(torch, subject.dtype)).eval()
