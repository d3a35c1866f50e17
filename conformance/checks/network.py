"""Networks with mergers in their blocks, for backends that have them: plans around a branch, and restored tokens."""

from __future__ import annotations

from functools import cache, lru_cache
from types import ModuleType
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.backends.registry import channels_first, own_way
from tokenmerge.conformance.case import context
from tokenmerge.conformance.checks.check import check
from tokenmerge.conformance.network import Array, Reference, random_images, random_params
from tokenmerge.conformance.subject import Mismatch, Subject
from tokenmerge.spec.ats import ATSMerging
from tokenmerge.spec.ltm import LTMMerging
from tokenmerge.spec.shared.description import Merging
from tokenmerge.spec.shared.vit_config import ViTConfig
from tokenmerge.spec.tome import ToMeMerging

DTYPE = "float32"  # which every framework has
BASE: dict[str, Any] = {"image_size": 16, "patch_size": 4, "dim": 16, "depth": 2, "heads": 2, "num_classes": 5}
COMPILED = 2  # how many networks, where each is compiled
ATS = ATSMerging((9,))
SAMPLES = 5
# for every rule mergers by block, and whether tokens are restored: 16 patches and a class token
NETWORKS: dict[str, tuple[tuple[dict[Any, Merging], bool], ...]] = {
    "VIT-1": (
        ({0: ToMeMerging(r=3, around="mlp"), 1: LTMMerging(0.5)}, False),
        ({0: ToMeMerging(r=4), 1: ToMeMerging(r=3, around="mlp")}, False),
    ),
    "VIT-2": (
        ({0: LTMMerging(0.5, around="block")}, False),
        ({0: ToMeMerging(r=4, prop_attn=False, around="block")}, False),
        ({0: ToMeMerging(r=4), 1: ToMeMerging(r=3, around="block")}, False),
    ),
    "VIT-3": (
        ({0: ToMeMerging(r=6, around="block")}, False),
        ({0: ATS, 1: ToMeMerging(r=3, around="block")}, False),
        ({0: ATS, 1: LTMMerging(0.5, around="block"), 2: ToMeMerging(r=2, prop_attn=False, around="block")}, False),
    ),
    "VIT-4": (
        ({0: ToMeMerging(r=4), 1: ToMeMerging(r=3, around="mlp")}, False),
        ({0: ATS, 1: ToMeMerging(r=2, around="mlp"), 2: ToMeMerging(r=2)}, False),
        ({0: ATS, 1: ToMeMerging(r=2, around="block"), 2: ToMeMerging(r=2), 3: ToMeMerging(r=1)}, False),
    ),
    "VIT-5": (
        ({0: LTMMerging(0.5), 1: LTMMerging(0.5, around="block")}, False),
        ({0: LTMMerging(0.5), 1: LTMMerging(0.5), 2: LTMMerging(0.5)}, False),
        ({0: LTMMerging(0.5), 1: ATS, 2: LTMMerging(0.5), 3: LTMMerging(0.5)}, False),
    ),
    "VIT-6": (
        ({0: ToMeMerging(r=6), 1: ToMeMerging(r=2)}, True),
        ({0: ATS}, True),
        ({0: LTMMerging(0.5, around=None), 1: ToMeMerging(r=3)}, True),
        ({0: ToMeMerging(r=4), 1: LTMMerging(0.5, around=None), 2: LTMMerging(0.5, around=None)}, True),
        ({0: ToMeMerging(r=5), 1: ATS, 2: ToMeMerging(r=2)}, True),
    ),
}
# what a quick look takes where a network is compiled: all of it in one, and each rule of it is held against the same
QUICK = {0: ToMeMerging(r=4), 1: ToMeMerging(r=2, around="mlp"), 2: LTMMerging(0.5), 3: LTMMerging(0.5, around="block")}
NETWORKS_OF = {**NETWORKS, "quick": ((QUICK, True),)}
STATEMENTS = {
    "VIT-1": "Around the MLP: x1 + U f(W x1).",
    "VIT-2": "Around a block: x + U (b(W x) - W x).",
    "VIT-3": "Inside a block of merged tokens their sizes and mask count.",
    "VIT-4": "After a branch that a plan acts around, sizes are what they were.",
    "VIT-5": "LTM's masks chain around branches, too.",
    "VIT-6": "Restored tokens are U x; dropped ones are zero.",
}


@cache
def _known(rule: str, which: int) -> tuple[ViTConfig, dict[str, Array], Array, Reference]:
    """A network, its parameters, images, and what the spec makes of them: worked out once for all backends."""
    merging, restore = NETWORKS_OF[rule][which]
    base = BASE | {"depth": max(BASE["depth"], 1 + max(merging))}
    config = ViTConfig(**base, merging=merging, restore=restore, pool="mean" if restore else "class")
    params, images = random_params(config), random_images(config, batch=SAMPLES)
    return config, params, images, Reference(config, params, images, DTYPE)


def _run(subject: Subject, config: ViTConfig, params: dict[str, Array], images: Array) -> Any:
    """The backend's output."""
    module = subject.module
    with context(module, DTYPE):
        model = module.ViT(config)
        model.load_params({name: value.astype(DTYPE) for name, value in params.items()})
        if hasattr(model, "eval"):
            model.eval()
        if subject.device is not None and hasattr(model, "to"):
            model = model.to(subject.device)
        given = np.ascontiguousarray(images.transpose(0, 3, 1, 2) if channels_first(module) else images)
        return own_way(module)(model)(module.from_numpy(given, DTYPE, subject.device))


@lru_cache(maxsize=1)
def _compiled_once(module: ModuleType, device: str | None) -> tuple[str, ...]:
    """What is different in the network of a quick look; the checks of all the rules come one after the other."""
    return tuple(_differences(Subject(module.NAME, module, DTYPE, device), "quick", 0))


def _differences(subject: Subject, rule: str, which: int) -> list[str]:
    """What is different in a network, and in which; nothing where it agrees."""
    config, params, images, reference = _known(rule, which)
    found = reference.differences(_run(subject, config, params, images))
    return [*found, f"in a network with {config.merging}, restore={config.restore}"] if found else []


def _network(rule: str) -> Any:
    def function(subject: Subject, data: Any) -> None:
        first = data.draw(st.integers(0, len(NETWORKS[rule]) - 1), label="first network")
        if subject.compiles and subject.level == "quick":
            found = list(_compiled_once(subject.module, subject.device))
            if found:
                raise Mismatch("\n".join(found))
            return
        for which in range(COMPILED if subject.compiles else len(NETWORKS[rule])):
            found = _differences(subject, rule, (first + which) % len(NETWORKS[rule]))
            if found:
                raise Mismatch("\n".join(found))

    return function


for rule, statement in STATEMENTS.items():
    name = f"network-{rule.lower()}"
    check(name, 3, statement, rule, share=0.025, needs="ViT", dtype=DTYPE, shrinks=False)(_network(rule))
