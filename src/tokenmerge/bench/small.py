"""Small inputs: batch 1, small networks, the shapes of the papers' own examples. There a call is mostly calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tokenmerge.bench import operators
from tokenmerge.bench.row import Case
from tokenmerge.bench.subject import Subject

OPERATORS: tuple[tuple[str, dict[str, int]], ...] = (
    ("tome", {"B": 1, "N": 197, "D": 64, "C": 768, "r": 16}),
    ("tome", {"B": 1, "N": 50, "D": 64, "C": 768, "r": 8}),
    ("patch_merger", {"B": 4, "N": 256, "C": 1024, "M": 8}),
    ("patch_merger", {"B": 16, "N": 1024, "C": 768, "M": 64}),
    ("ltm", {"B": 4, "N": 256, "C": 1024, "P": 8}),
    ("ltm", {"B": 16, "N": 1024, "C": 768, "P": 64}),
)
NETWORKS: tuple[dict[str, Any], ...] = (
    {"network": "vit_tiny_patch16_224", "B": 1, "r": 16},
    {"network": "vit_base_patch16_224", "B": 1, "r": 16},
    {"network": "vit_small_patch16_224", "B": 8, "r": 13},
)


def cases(subject: Subject) -> Iterator[Case]:
    """Every comparison; networks are timm's, in PyTorch."""
    for operation, shape in OPERATORS:
        yield from operators.cases(operation, subject, shape)
    if subject.name == "torch":
        for network in NETWORKS:
            yield from patched(subject, **network)


def patched(subject: Subject, network: str, B: int, r: int, **options: Any) -> Iterator[Case]:
    """A model of timm after `patch`: against itself before, and with ToMe written into its blocks by hand.

    Args:
        network: timm's name; B: images; r: tokens to remove in every block; options: of `timm.create_model`.
    """
    import timm
    import torch

    from tokenmerge.backends.torch import patch
    from tokenmerge.bench import textbook_timm

    plain: Any
    merging: Any
    plain, merging = (
        timm.create_model(network, **options).eval().to(device=subject.where, dtype=getattr(torch, subject.dtype))
        for _ in range(2)
    )
    merging.load_state_dict(plain.state_dict())
    patch(merging, "tome", r=r)
    images = subject.array((B, *plain.patch_embed.proj.weight.shape[1:2], *plain.patch_embed.img_size))
    for against, other in (
        ("plain", plain),
        ("textbook", lambda images: textbook_timm.run(plain, images, r)),
    ):
        yield Case(
            "patched with tome",
            subject.name,
            subject.where,
            subject.dtype,
            {"network": network, "B": B, "r": r},
            ours=subject.call(merging, images),
            other=subject.call(other, images),
            against=against,
        )
