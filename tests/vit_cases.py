"""Networks small enough to compare everywhere; how far a backend may be from the spec is `conformance/network.py`'s."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenmerge import ATSMerging, LTMMerging, PatchMergerMerging, ToMeMerging, ViTConfig, get_vit
from tokenmerge.conformance.network import SLACK, Array, Reference, parts, random_params
from tokenmerge.conformance.network import random_images as images

__all__ = ["BASE", "CASES", "SLACK", "Array", "Reference", "config", "images", "parts", "random_params", "reference"]

BASE: dict[str, Any] = {"image_size": 16, "patch_size": 4, "dim": 16, "depth": 4, "heads": 2, "num_classes": 5}
TOME, ATS, LTM = ToMeMerging(r=[3, 3]), ATSMerging((12, 8, 5)), LTMMerging(0.5, around=None)
MEAN: dict[str, Any] = {"pool": "mean"}

# 16 patches and a class token: 17 tokens, an odd number; with one register, or without the class token, an even one.
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain mean": MEAN,
    "plain mean, norm first": MEAN | {"fc_norm": False},
    "plain class, norm last": {"fc_norm": True},
    "no class token": MEAN | {"class_token": False},
    "no head": {"num_classes": 0},
    "registers": {"register_tokens": 3},
    "distillation": {"distillation_token": True},
    "layer scale": {"layer_scale": 0.5},
    "qk norm": {"qk_norm": True},
    "pre norm": {"pre_norm": True, "qkv_bias": False},
    "no embed class": {"no_embed_class": True, "register_tokens": 1},
    "rectangle": {"image_size": (16, 24), "channels": 2, "mlp_dim": 24},
    "tome 1": {"merging": ToMeMerging(r=[0, 1, 1])},
    "tome 3": {"merging": TOME},
    "tome 8": {"merging": ToMeMerging(r=[8, 4])},
    "tome mean": MEAN | {"merging": TOME},
    "tome mean, no class token": MEAN | {"class_token": False, "merging": ToMeMerging(r=[3, 2], order="positional")},
    "tome without proportional attention": {"merging": ToMeMerging(r=[3, 3], prop_attn=False)},
    "tome in score order": {"merging": ToMeMerging(r=[3, 2], order="score"), "image_size": (16, 20)},
    "tome everything": {
        "merging": ToMeMerging(r=[3, 2]),
        "register_tokens": 2,
        "distillation_token": True,
        "layer_scale": 0.5,
        "qk_norm": True,
        "pre_norm": True,
        "no_embed_class": True,
    },
    "ats 12 8 5": {"merging": ATS},
    "ats 7": {"merging": ATSMerging((7,))},
    "ats 16 10": {"merging": ATSMerging((16, 10), score="concat")},
    "ats mean": MEAN | {"merging": ATS},
    "ats everything": {
        "merging": ATSMerging((12, 8)),
        "register_tokens": 2,
        "distillation_token": True,
        "qk_norm": True,
    },
    # shapes repeat: every mask is the next one's prior
    "ltm 1.0": {"merging": {range(0, 3): LTMMerging(1.0, around=None)}},
    "ltm 0.75": {"merging": {range(1, 3): LTMMerging(0.75, prior_smoothing=0.3, around=None)}},
    "ltm 0.5": {"merging": {range(0, 3): LTM}},
    "ltm mean": MEAN | {"merging": {range(0, 2): LTM}, "register_tokens": 1},
    "patch_merger": MEAN | {"merging": PatchMergerMerging()},
    "patch_merger, norm first": MEAN
    | {"fc_norm": False, "merging": PatchMergerMerging(layer=4, num_tokens_out=3, logit_scale=1.0)},
    "ats, tome, ltm": {"merging": {range(0, 2): ATSMerging((12, 8)), 2: ToMeMerging(r=4), 3: LTM}},
    "tome, ltm, tome, ats": {"merging": {0: ToMeMerging(r=3), 1: LTM, 2: ToMeMerging(r=2), 3: ATSMerging((3,))}},
    "tome, patch_merger, tome": MEAN
    | {"merging": {0: ToMeMerging(r=4), 1: PatchMergerMerging(), 2: ToMeMerging(r=2, protected=0)}},
    "ats, patch_merger": MEAN | {"merging": {0: ATSMerging((9,)), 1: PatchMergerMerging(num_tokens_out=4)}},
    # chains of masks: around both branches, over a block without a merger, and none where the shapes differ
    "ltm around mlp": {"merging": {0: LTMMerging(0.5), 2: LTMMerging(0.5), 3: LTMMerging(0.75)}},
    "ltm around block": MEAN | {"register_tokens": 1, "merging": {range(0, 3): LTMMerging(0.6, around="block")}},
    "ltm everywhere": {"merging": {0: LTMMerging(0.5), 1: LTMMerging(0.5, around="block"), 2: LTM, 3: LTM}},
    "tome around mlp": {"merging": ToMeMerging(r=[3, 0, 8], around="mlp"), "layer_scale": 0.5},
    "tome around block": MEAN | {"merging": ToMeMerging(r=[3, 5], around="block"), "qk_norm": True},
    "tome around block, plain": {"merging": ToMeMerging(r=[3, 5], around="block", prop_attn=False)},
    "tome, tome around, tome": {
        "merging": {
            0: ToMeMerging(r=3),
            1: ToMeMerging(r=4, around="block", order="positional"),
            2: ToMeMerging(r=3, around="mlp"),
            3: ToMeMerging(r=2),
        }
    },
    "ats, ltm around, tome around": {
        "merging": {
            0: ATSMerging((9,)),
            1: LTMMerging(0.5),
            2: ToMeMerging(r=3, around="block"),
            3: LTMMerging(0.5, around="block"),
        }
    },
    "tome restored": MEAN | {"merging": TOME, "restore": True, "register_tokens": 2},
    "ltm restored": {"merging": {0: LTM, 1: LTM, 2: LTMMerging(0.5)}, "restore": True},
    "ats restored": MEAN | {"merging": ATS, "restore": True},
    "ats, tome, ltm restored": {
        "merging": {0: ATSMerging((12,)), 1: ToMeMerging(r=4), 2: LTM},
        "restore": True,
        "num_classes": 0,
    },
    "patch_merger restored": MEAN | {"merging": {0: ToMeMerging(r=4), 1: PatchMergerMerging()}, "restore": True},
    "tome, ats, tome": {"merging": {0: ToMeMerging(r=3), 1: ATSMerging((8,)), 2: ToMeMerging(r=2, order="score")}},
}


def config(name: str) -> ViTConfig:
    """The network of a case."""
    return ViTConfig(**BASE | CASES[name])


def run(config: ViTConfig, params: Mapping[str, Array], images: Array, backend: str = "spec") -> Any:
    """The output of a backend whose arrays are NumPy's, in the precision of the parameters."""
    model = get_vit(config, backend=backend)
    model.load_params(params)
    return model(images)


def reference(name: str) -> tuple[ViTConfig, dict[str, Array], Array, Reference]:
    """A case: configuration, parameters, images and what the spec makes of them."""
    network = config(name)
    params, given = random_params(network), images(network)
    return network, params, given, Reference(network, params, given)
