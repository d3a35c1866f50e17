"""What people do with the existing repositories, done here with today's libraries at their real sizes."""

from __future__ import annotations

import numpy as np
import pytest

from tokenmerge import LTMMerging, ViTConfig, get_vit


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax"])
def test_a_vision_transformer_with_ltm(backend: str) -> None:
    config = ViTConfig(dim=48, heads=3, merging=LTMMerging(compression_ratio=0.8))
    model = get_vit(config, backend=backend)
    shape = (1, 3, 224, 224) if backend == "torch" else (1, 224, 224, 3)
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    if backend == "torch":
        import torch

        out = model(torch.from_numpy(images))
    else:
        out = model(images)
    assert [plan.num_tokens_out for plan in out.plans] == [158] * 12  # around every MLP
    assert out.plan.num_tokens_out == 197
    assert out.logits.shape == (1, 1000)


def test_tome_on_a_vit_of_timm() -> None:
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    from tokenmerge.backends.torch import patch

    model = timm.create_model("vit_base_patch16_224").eval()
    with torch.no_grad(), patch(model, "tome", r=16) as handle:
        logits = model(torch.randn(1, 3, 224, 224))
    assert logits.shape == (1, 1000)
    assert [plan.num_tokens_out for plan in handle.plans] == [181, 165, 149, 133, 117, 101, 85, 69, 53, 37, 21, 11]
    assert handle.source().assignment.shape == (1, 197)
