"""What a training leaves to look at: a table of epochs, events for TensorBoard, a plot."""

from __future__ import annotations

import csv
import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenmerge.files import replacing, write_text

PANELS = (
    ("loss", ("train_loss", "val_loss")),
    ("accuracy, %", ("accuracy", "ema_accuracy")),
    ("bound, nats", ("bound",)),
    ("mutual information, nats", ("in_out", "out_label", "difference")),
)


def write_table(out: Path, rows: list[dict[str, Any]]) -> None:
    """`epochs.csv`, whole or not at all. OSError."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[-1]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text("train", "out", out / "epochs.csv", text.getvalue())


def write_plot(out: Path, rows: list[dict[str, Any]]) -> None:
    """`epochs.png`, whole or not at all, where matplotlib is there. OSError."""
    if find_spec("matplotlib") is None:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(title, [name for name in names if name in rows[-1]]) for title, names in PANELS]
    panels = [(title, names) for title, names in panels if names]
    figure = Figure(figsize=(4 * len(panels), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, names) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        for name in names:
            scale = 100 if "accuracy" in name else 1
            axes.plot([row["epoch"] for row in rows], [scale * row[name] for row in rows], label=name)
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="small")
    with replacing("train", "out", out / "epochs.png") as part:
        figure.savefig(part, dpi=100, format="png")


class Events:
    """Events for TensorBoard, where the package is there."""

    def __init__(self, out: Path, epoch: int) -> None:
        self.writer: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(out / "events"), purge_step=epoch + 1)

    def add(self, row: dict[str, Any]) -> None:
        if self.writer is not None:
            for name, value in row.items():
                self.writer.add_scalar(name, value, row["epoch"])
            self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
