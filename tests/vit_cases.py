"""Networks small enough to compare everywhere, and how far a float64 backend may be from the float64 spec.

The same network is run by the spec in float32 and in float64. Their distance, in units of float32's rounding, is how
much the network amplifies rounding; a backend in float64 is allowed `SLACK` times that, in units of float64's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tokenmerge import ATSMerging, LTMMerging, PatchMergerMerging, ToMeMerging, ViTConfig, get_vit
from tokenmerge.spec.shared.vit_parameters import parameter_shapes

Array = np.ndarray[Any, Any]

SLACK = 16  # other orders of the same sums
BASE: dict[str, Any] = {"image_size": 16, "patch_size": 4, "dim": 16, "depth": 4, "heads": 2, "num_classes": 5}
TOME, ATS, LTM = ToMeMerging(r=[3, 3]), ATSMerging((12, 8, 5)), LTMMerging(0.5)
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
    "ltm 1.0": {"merging": {range(0, 3): LTMMerging(1.0)}},  # shapes repeat: every mask is the next one's prior
    "ltm 0.75": {"merging": {range(1, 3): LTMMerging(0.75, prior_smoothing=0.3)}},
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
    "tome, ats, tome": {"merging": {0: ToMeMerging(r=3), 1: ATSMerging((8,)), 2: ToMeMerging(r=2, order="score")}},
}


def config(name: str) -> ViTConfig:
    """The network of a case."""
    return ViTConfig(**BASE | CASES[name])


def random_params(config: ViTConfig, seed: int = 0) -> dict[str, Array]:
    """Every parameter random, in float64, with values that float32 holds exactly; none is zero or one by chance."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, shape in parameter_shapes(config).items():
        values = rng.standard_normal(shape)
        last = name.rpartition(".")[2]
        if ("norm" in name and last == "weight") or last in ("scale", "gamma"):
            values = 1 + values / 4
        elif last == "bias":
            values = values / 4
        elif last == "weight" and len(shape) > 1:
            values = values / np.sqrt(np.prod(shape[1:]))
            values = values * 2.5 if "qkv" in name else values  # sharp attention, so that ATS leaves slots empty
        params[name] = values.astype(np.float32).astype(np.float64)
    return params


def images(config: ViTConfig, seed: int = 0, batch: int = 3) -> Array:
    """Images `(B, height, width, channels)` in float64, with values that float32 holds exactly."""
    shape = (batch, *config.image_shape, config.channels)
    return np.random.default_rng(seed).standard_normal(shape, np.float32).astype(np.float64)


def run(config: ViTConfig, params: Mapping[str, Array], images: Array, backend: str = "spec") -> Any:
    """The output of a backend whose arrays are NumPy's, in the precision of the parameters."""
    model = get_vit(config, backend=backend)
    model.load_params(params)
    return model(images)


def parts(output: Any) -> dict[str, Array]:
    """Everything a network returns, by name, as NumPy arrays; what is None is left out."""
    found = {name: getattr(output, name) for name in ("logits", "tokens", "size", "mask")}
    found |= {f"size into block {i}": size for i, size in enumerate(output.sizes)}
    for where, plan in [("plan", output.plan), *((f"plan of block {i}", plan) for i, plan in enumerate(output.plans))]:
        for field in ("assignment", "indices", "weights", "mask"):
            found[f"{where}: {field}"] = getattr(plan, field, None)
    return {name: _numpy(value) for name, value in found.items() if value is not None}


class Reference:
    """The spec's float64 result, and the distance that a float64 backend may keep from it.

    Args:
        config: the network; params: float64, as `random_params` makes them; images: `(B, height, width, channels)`.
    """

    def __init__(self, config: ViTConfig, params: Mapping[str, Array], images: Array) -> None:
        self.output = run(config, params, images)
        self.parts = parts(self.output)
        single = parts(run(config, {name: value.astype(np.float32) for name, value in params.items()}, images))
        amplified = 0.0  # of the whole network: a single part may agree by luck
        for name, value in self.parts.items():
            if value.dtype.kind == "f":
                assert value.dtype == np.float64, name
                assert np.isfinite(value).all(), name
                amplified = max(amplified, np.abs(single[name] - value).max(initial=0) / np.finfo(np.float32).eps)
            else:  # or the distance would say nothing about rounding
                assert (single[name] == value).all(), f"{name} is decided within float32's rounding: take another seed"
        self.budget = {
            name: np.finfo(np.float64).eps * (SLACK * amplified + np.abs(value))
            for name, value in self.parts.items()
            if value.dtype.kind == "f"
        }

    def differences(self, output: Any) -> list[str]:
        """What another float64 output has too much, too little or different, in words; empty where it agrees."""
        other = parts(output)
        found = [f"{name}: only one has it" for name in self.parts.keys() ^ other.keys()]
        for name, value in self.parts.items():
            if name not in other:
                continue
            got = other[name]
            if (
                got.shape != value.shape
                or got.dtype.kind != value.dtype.kind
                or (got.dtype.kind == "f") != (got.dtype == np.float64)
            ):
                found.append(f"{name}: {got.dtype} {got.shape} instead of {value.dtype} {value.shape}")
            elif name not in self.budget:
                found += [f"{name}: decided otherwise"] if (got != value).any() else []
            elif not (np.abs(got - value) <= self.budget[name]).all():  # also where it is NaN
                found.append(f"{name}: {self.used(name, got):.2g} of its budget")
        return found

    def used(self, name: str, got: Array) -> float:
        """The largest share of the budget."""
        distance, budget = np.abs(got - self.parts[name]), self.budget[name]
        return float(np.divide(distance, budget, out=np.where(distance > 0, np.inf, 0.0), where=budget > 0).max())


def reference(name: str) -> tuple[ViTConfig, dict[str, Array], Array, Reference]:
    """A case: configuration, parameters, images and what the spec makes of them."""
    network = config(name)
    params, given = random_params(network), images(network)
    return network, params, given, Reference(network, params, given)


def _numpy(value: Any) -> Array:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
