"""Training on the digits, in PyTorch: minutes on two cores."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from tokenmerge.backends.doors import get_vit
from tokenmerge.digits.data import Split
from tokenmerge.digits.network import digits_config
from tokenmerge.spec.shared.description import Merging

Tensor = torch.Tensor
BATCH, SHIFT, TURN, ZOOM = 64, 0.1, 0.2, 0.1  # images; parts of the width; radians; part of the scale
SMOOTHING, DECAY, DROP_PATH, WARMUP = 0.1, 0.05, 0.1, 0.1


def train(
    data: Split,
    *,
    epochs: int,
    seed: int = 0,
    merging: Merging | None = None,
    params: dict[str, np.ndarray[Any, Any]] | None = None,
    rate: float = 2e-3,
    progress: Callable[[int, float], None] = lambda epoch, loss: None,
) -> dict[str, np.ndarray[Any, Any]]:
    """Train the digits network and return its parameters.

    AdamW with a cosine schedule, label smoothing, and images that are shifted, turned and scaled a little.

    Args:
        data: images and labels; epochs: passes over them.
        seed: of the first parameters, the order of the images and what happens to them.
        merging: a merger that the network is trained with; params: parameters to start from (fine-tuning).
        rate: highest learning rate.
        progress: called after every epoch with its number and mean loss.

    Returns:
        Parameters by timm's names.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.from_numpy(data.images).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(data.labels)
    model = get_vit(digits_config(merging, drop_path=DROP_PATH), backend="torch", seed=seed)
    if params is not None:
        model.load_params(params)
    optimizer = torch.optim.AdamW(decay_groups(model), lr=rate)
    batches = math.ceil(len(labels) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, epochs * batches))
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # for stochastic depth
        for epoch in range(epochs):
            total = 0.0
            for chosen in torch.randperm(len(labels), generator=generator).split(BATCH):
                logits = model(_vary(images[chosen], generator)).logits
                loss = functional.cross_entropy(logits, labels[chosen], label_smoothing=SMOOTHING)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(chosen)
            progress(epoch + 1, total / len(labels))
    return model.params()


def decay_groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Weight decay for matrices only."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    return [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]


def warm_cosine(step: int, steps: int) -> float:
    """The share of the highest learning rate: a tenth of the steps up, then down along a cosine."""
    warmup = max(1, int(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _vary(images: Tensor, generator: torch.Generator) -> Tensor:
    """Every image shifted, turned and scaled a little."""

    def draw(*shape: int) -> Tensor:
        return 2 * torch.rand(len(images), *shape, generator=generator) - 1

    angle, scale, shift = TURN * draw(), 1 + ZOOM * draw(), 2 * SHIFT * draw(2)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    matrix = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).reshape(-1, 2, 3)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
