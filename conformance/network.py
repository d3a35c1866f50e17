"""Networks small enough to compare everywhere, and how far another one may be from the spec's in float64.

The same network is run by the spec in float32 and in float64. Their distance, in units of float32's rounding, is how
much the network amplifies rounding; a backend is allowed `SLACK` times that, in units of its own precision's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tokenmerge.spec.shared.vit_config import ViTConfig
from tokenmerge.spec.shared.vit_parameters import parameter_shapes
from tokenmerge.spec.vit_batch import ViT

Array = np.ndarray[Any, Any]

SLACK = 16  # other orders of the same sums


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


def random_images(config: ViTConfig, seed: int = 0, batch: int = 3) -> Array:
    """Images `(B, height, width, channels)` in float64, with values that float32 holds exactly."""
    shape = (batch, *config.image_shape, config.channels)
    return np.random.default_rng(seed).standard_normal(shape, np.float32).astype(np.float64)


def run_spec(config: ViTConfig, params: Mapping[str, Array], images: Array) -> Any:
    """The spec's output, in the precision of the parameters."""
    model = ViT(config)
    model.load_params(params)
    return model(images)


def parts(output: Any) -> dict[str, Array]:
    """Everything a network returns, by name, as NumPy arrays; what is None is left out."""
    found = {name: getattr(output, name) for name in ("logits", "tokens", "size", "mask")}
    found |= {f"size into block {i}": size for i, size in enumerate(output.sizes)}
    found |= {"around": np.array([place or "" for place in output.around])}
    for where, plan in [("plan", output.plan), *((f"plan of block {i}", plan) for i, plan in enumerate(output.plans))]:
        for field in ("assignment", "indices", "weights", "mask"):
            found[f"{where}: {field}"] = getattr(plan, field, None)
    return {name: _numpy(value) for name, value in found.items() if value is not None}


class Reference:
    """The spec's float64 result, and the distance that another network may keep from it.

    Args:
        config: the network; params: float64, as `random_params` makes them; images: `(B, height, width, channels)`.
        dtype: of the other network.
    """

    def __init__(self, config: ViTConfig, params: Mapping[str, Array], images: Array, dtype: str = "float64") -> None:
        self.dtype = np.dtype(dtype)
        self.output = run_spec(config, params, images)
        self.parts = parts(self.output)
        single = parts(run_spec(config, {name: value.astype(np.float32) for name, value in params.items()}, images))
        amplified = 0.0  # of the whole network: a single part may agree by luck
        for name, value in self.parts.items():
            if value.dtype.kind == "f":
                assert value.dtype == np.float64, name
                assert np.isfinite(value).all(), name
                amplified = max(amplified, np.abs(single[name] - value).max(initial=0) / np.finfo(np.float32).eps)
            else:  # or the distance would say nothing about rounding
                assert (single[name] == value).all(), f"{name} is decided within float32's rounding: take another seed"
        self.budget = {
            name: np.finfo(self.dtype).eps * (SLACK * amplified + np.abs(value))
            for name, value in self.parts.items()
            if value.dtype.kind == "f"
        }

    def differences(self, output: Any) -> list[str]:
        """What another output has too much, too little or different, in words; empty where it agrees."""
        other = parts(output)
        found = [f"{name}: only one has it" for name in self.parts.keys() ^ other.keys()]
        for name, value in self.parts.items():
            if name not in other:
                continue
            got = other[name]
            if (
                got.shape != value.shape
                or got.dtype.kind != value.dtype.kind
                or (got.dtype.kind == "f" and not self.has_dtype(name, got))
            ):
                found.append(f"{name}: {got.dtype} {got.shape} instead of {value.dtype} {value.shape}")
            elif name not in self.budget:
                found += [f"{name}: decided otherwise"] if (got != value).any() else []
            elif not (np.abs(got - value) <= self.budget[name]).all():  # also where it is NaN
                found.append(f"{name}: {self.used(name, got):.2g} of its budget")
        return found

    def has_dtype(self, name: str, got: Array) -> bool:
        """Whether a part is in the dtype of the network; the matrix of a composed plan may be in a finer one."""
        return bool(got.dtype == self.dtype or (name == "plan: weights" and got.dtype.itemsize > self.dtype.itemsize))

    def used(self, name: str, got: Array) -> float:
        """The largest share of the budget."""
        distance, budget = np.abs(got - self.parts[name]), self.budget[name]
        return float(np.divide(distance, budget, out=np.where(distance > 0, np.inf, 0.0), where=budget > 0).max())


def _numpy(value: Any) -> Array:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
