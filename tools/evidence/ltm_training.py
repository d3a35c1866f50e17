"""One training: AdamW, cosine schedule, label smoothing, no augmentation; and what the bound is on the way."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn import functional

from tokenmerge import ViTConfig, get_vit
from tokenmerge.backends.torch import BottleneckTracker
from tokenmerge.digits.data import Split
from tokenmerge.digits.train import SMOOTHING, decay_groups, warm_cosine
from tokenmerge.training.networks import Reader

Tensor = torch.Tensor
BATCH, RATE, CLASSES, PASS = 32, 3e-3, 10, 500  # images of a step; highest learning rate; images of a step without
DEVIATION = 0.02  # of first weights as they are in timm


class Trained(NamedTuple):
    """A network, and for a tracked one I(in;out), I(out;label) and the bound before each epoch and after the last."""

    model: Any
    measures: list[tuple[float, float, float]]


def train(
    data: Split, config: ViTConfig, *, epochs: int, seed: int, tracked: bool, bound: bool, fixed: bool = False
) -> Trained:
    """Train a network on `data`.

    Args:
        seed: of the first parameters, the order of the images and the clusters.
        tracked: whether a `BottleneckTracker` watches; bound: whether its loss is added.
        fixed: whether mergers learn nothing.
    """
    images, labels = tensors(data)
    model = get_vit(config, backend="torch", seed=seed)
    _widen(model)
    for name, value in model.named_parameters():
        value.requires_grad_(not (fixed and ".merger." in name))
    reader = Reader(model)
    optimizer = torch.optim.AdamW(decay_groups(model), lr=RATE)
    steps = epochs * (len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, steps))
    generator = torch.Generator().manual_seed(seed)
    tracker = BottleneckTracker(CLASSES, epochs=epochs, seed=seed) if tracked else None
    measures = []
    if tracker is not None:
        tracker.fit_inputs(images.flatten(1))
    for _ in range(epochs):
        if tracker is not None:
            measures.append(_look(tracker, model, reader, images, labels))
        model.train()
        order = torch.randperm(len(labels), generator=generator)[: len(labels) // BATCH * BATCH]
        for chosen in order.split(BATCH):
            logits = model(images[chosen]).logits
            loss = functional.cross_entropy(logits, labels[chosen], label_smoothing=SMOOTHING)
            features = reader.take()
            if bound and tracker is not None:
                loss = loss + tracker.loss(features, labels[chosen], images[chosen].flatten(1))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    if tracker is not None:
        measures.append(_look(tracker, model, reader, images, labels))
    return Trained(model.eval(), measures)


def tensors(data: Split) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(data.images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(data.labels)


@torch.no_grad()
def right(model: Any, data: Split) -> int:
    """How many images are classified rightly."""
    images, labels = tensors(data)
    guesses = torch.cat([model(part).logits.argmax(dim=1) for part in images.split(PASS)])
    return int((guesses == labels).sum())


@torch.no_grad()
def masks(model: Any, data: Split, index: int) -> list[Any]:
    """LTM's mask of every block for one image: what each merged token `(P',n)` is a mean of."""
    images, _ = tensors(data)
    front = model.config.prefix_tokens
    return [plan.matrix()[0, front:, front:].numpy() for plan in model(images[index : index + 1]).plans]


@torch.no_grad()
def _widen(model: Any) -> None:
    """First weights that keep the scale of what goes in: timm's deviation of 0.02 is for widths of hundreds."""
    for name, value in model.named_parameters():
        if name == "pos_embed":
            value.mul_(0.2 / DEVIATION)
        elif name.endswith("weight") and value.ndim > 1 and ".merger." not in name:
            value.mul_(value[0].numel() ** -0.5 / DEVIATION)


@torch.no_grad()
def _look(
    tracker: BottleneckTracker, model: Any, reader: Reader, images: Tensor, labels: Tensor
) -> tuple[float, float, float]:
    model.eval()
    for some, their in zip(images.split(PASS), labels.split(PASS), strict=True):
        model(some)
        tracker.observe(reader.take(), their, some.flatten(1))
    found = tracker.update()
    return found.in_out, found.out_label, found.bound
