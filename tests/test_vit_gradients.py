"""Gradients of the PyTorch and the JAX network agree, parameter by parameter, hard decisions held fixed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import vit_cases

from tokenmerge import ViTConfig, get_vit

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")

Array = np.ndarray[Any, Any]
NAMES = ("tome, ltm, tome, ats", "ats, patch_merger")  # every merger


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def by_torch(
    config: ViTConfig, params: dict[str, Array], images: Array, weights: Array, dtype: Any
) -> dict[str, Array]:
    model = get_vit(config, backend="torch").to(dtype).eval()
    model.load_params(params)
    logits = model(torch.from_numpy(images).permute(0, 3, 1, 2)).logits
    (logits * torch.from_numpy(weights)).sum().backward()
    return {name: value.grad.double().numpy() for name, value in model.named_parameters()}


def by_jax(config: ViTConfig, params: dict[str, Array], images: Array, weights: Array) -> dict[str, Array]:
    from tokenmerge.backends.jax.vit import vit

    def loss(params: dict[str, Any]) -> Any:
        return (vit(jax.numpy.asarray(images), params, config).logits * weights).sum()

    found = jax.jit(jax.grad(loss))({name: jax.numpy.asarray(value) for name, value in params.items()})
    return {name: np.asarray(value) for name, value in found.items()}


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_torch_and_jax_agree(name: str) -> None:
    config = vit_cases.config(name)
    params, images = vit_cases.random_params(config), vit_cases.images(config)
    weights = np.random.default_rng(0).standard_normal((len(images), config.num_classes))
    fine = by_torch(config, params, images, weights, torch.float64)
    coarse = by_torch(config, params, images, weights, torch.float32)
    other = by_jax(config, params, images, weights)
    assert fine.keys() == other.keys() == params.keys()
    for parameter, gradient in fine.items():
        # how much the way back amplifies rounding, measured in float32, as in `vit_cases.Reference`
        amplified = np.abs(coarse[parameter] - gradient).max() / np.finfo(np.float32).eps
        budget = np.finfo(np.float64).eps * (vit_cases.SLACK * amplified + np.abs(gradient).max())
        assert np.abs(other[parameter] - gradient).max() <= budget, parameter
        assert (gradient != 0).any(), parameter
