"""The pictures of the runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ltm_arms import ARMS, config
from ltm_sets import EPOCHS, TITLES
from ltm_tables import Runs, accuracies, bounds, interval
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tokenmerge.pictures.viz import heat_image
from tokenmerge.spec.shared.bottleneck import active, options
from tokenmerge.spec.shared.flops import flops

COLOURS = dict(
    zip(ARMS, ("#444444", "#999999", "#e69f00", "#cc79a7", "#56b4e9", "#0072b2", "#d55e00", "#009e73"), strict=True)
)
MARKS = dict(zip(ARMS, "osD^Xv<*", strict=True))


def accuracy(runs: Runs, path: Path) -> None:
    """Accuracy against multiply-adds, with confidence intervals; where costs are alike, points are moved apart."""
    figure, panels = _figure(9, 3.6)
    for axes, (data, title) in zip(panels, TITLES.items(), strict=True):
        for place, (name, arm) in enumerate(ARMS.items()):
            mean, half = interval(accuracies(runs, data, name))
            apart = 0.012 * (place - len(ARMS) / 2) if name != "plain" else 0.0  # so that one sees each
            cost = flops(config(name)).total / 1e6 + apart
            axes.errorbar(cost, mean, half, fmt=MARKS[name], color=COLOURS[name], capsize=3, label=arm.title)
        axes.set(title=title, xlabel="million multiply-adds per image", ylabel="test accuracy, %")
        axes.grid(alpha=0.3)
    panels[0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=110)


def bound(runs: Runs, path: Path) -> None:
    """The bound over the epochs, with the loss and without, mean and confidence interval."""
    figure, panels = _figure(9, 3.2)
    for axes, (data, title) in zip(panels, TITLES.items(), strict=True):
        for name in ("ltm", "ltm_bound"):
            values = bounds(runs, data, name)
            means, halves = np.array([interval(column) for column in values.T]).T
            epochs = np.arange(len(means))
            axes.plot(epochs, means, marker=".", color=COLOURS[name], label=ARMS[name].title)
            axes.fill_between(epochs, means - halves, means + halves, color=COLOURS[name], alpha=0.2, linewidth=0)
        chosen = options(10, EPOCHS[data], None, 1.0, 0.1, 0.3, "aligned", 0)
        begins = next(epoch for epoch in range(EPOCHS[data]) if active(chosen, epoch + 1))
        axes.axvline(begins, color="#444444", linewidth=0.8, linestyle=":", label="the loss begins")
        axes.set(title=title, xlabel="epochs that are over", ylabel="bound, nats")
        axes.grid(alpha=0.3)
    panels[0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=110)


def masks(picture: dict[str, Any], path: Path) -> None:
    """A row for the prior and for every block: the image, and what each merged token is a mean of."""
    image = np.repeat(np.array(picture["image"], float)[..., None] / 255, 3, axis=2)
    layers = [np.array(layer) for layer in picture["masks"]]
    side = round(layers[0].shape[1] ** 0.5)
    columns = len(layers[0]) + 1
    figure = Figure(figsize=(columns, 1.15 * len(layers)), layout="constrained")
    FigureCanvasAgg(figure)
    for row, layer in enumerate(layers):
        moved = np.abs(layer - layers[0]).sum(axis=1).mean() / 2
        for column in range(columns):
            axes = figure.add_subplot(len(layers), columns, row * columns + column + 1)
            axes.set(xticks=[], yticks=[])
            axes.imshow(image if column == 0 else heat_image(layer[column - 1], image, (side, side)))
        title = "prior" if row == 0 else f"block {row}: {100 * moved:.0f} % moved"
        figure.axes[row * columns].set_title(title, loc="left", fontsize=8)
    figure.savefig(path, dpi=110)


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, len(TITLES))
