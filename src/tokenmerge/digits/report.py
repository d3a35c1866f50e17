"""What `tokenmerge evaluate digits` shows: a table, a plot of accuracy against work, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from itertools import cycle
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from tokenmerge.digits.evaluate import Row
from tokenmerge.files import replacing, write_text
from tokenmerge.spec.mergers import MERGERS

TITLES = {"none": "no merging", **{name: merger.title for name, merger in MERGERS.items()}}
PALETTE = ("#444444", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by everybody
COLOURS = dict(zip(TITLES, cycle(PALETTE), strict=False))
NOTES = (
    "MMACs: millions of multiply-adds of one image. images/s: median of three passes, warm; a comparison only within "
    "this run.\n"
    "differ: test images whose prediction differs from the first backend's; each of them must be a certified near-tie. "
    "tuned: fine-tuned with the merger."
)


def table(rows: Iterable[Row]) -> Table:
    """One line for every merger, rate and backend."""
    made = Table(box=SIMPLE_HEAD, caption=NOTES, caption_justify="left", caption_style="dim")
    for name in ("merger", "rate", "tuned", "backend"):
        made.add_column(name, no_wrap=True)
    for name in ("tokens", "MMACs", "right, %", "images/s", "differ"):
        made.add_column(name, justify="right", no_wrap=True)
    before: tuple[str, str, str] | None = None
    for row in rows:
        group = (row.merger, row.rate, row.trained)
        new = group != before
        if new and before is not None and before[0] != row.merger:
            made.add_section()
        before = group
        differ = Text(str(row.differ), style="" if row.differ == row.near_ties else "bold red")
        if row.differ:
            differ.append(f" ({row.near_ties} ties)")
        made.add_row(
            *((TITLES[row.merger], row.rate, "yes" if row.trained == "fine-tuned" else "") if new else ("", "", "")),
            row.backend,
            str(row.tokens),
            f"{1000 * row.gflops:.2f}",
            f"{100 * row.accuracy:.2f}",
            f"{row.images_per_second:.0f}",
            differ,
        )
    return made


def write_json(rows: Iterable[Row], path: Path) -> None:
    """The rows, for machines."""
    text = json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n"
    write_text("evaluate", "json", path, text)


def plot(rows: list[Row], path: Path) -> None:
    """Accuracy against multiply-adds, a line for every merger; off the shelf dashed, fine-tuned solid."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = rows[0].backend
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    unmerged = [row for row in rows if row.merger == "none" and row.backend == first]
    for row in unmerged[:1]:
        axes.axhline(100 * row.accuracy, color=COLOURS["none"], linewidth=0.8, linestyle=":")
        axes.plot(1000 * row.gflops, 100 * row.accuracy, "o", color=COLOURS["none"], label=TITLES["none"])
    for merger in (name for name in TITLES if name != "none"):
        for trained, style, filled in (("off the shelf", "--", "white"), ("fine-tuned", "-", COLOURS[merger])):
            points = [r for r in rows if (r.merger, r.backend, r.trained) == (merger, first, trained)]
            if points:
                axes.plot(
                    [1000 * row.gflops for row in points],
                    [100 * row.accuracy for row in points],
                    style,
                    marker="o",
                    color=COLOURS[merger],
                    markerfacecolor=filled,
                    label=f"{TITLES[merger]}, {trained}",
                )
    axes.set(xlabel="million multiply-adds per image", ylabel="test accuracy, %", title="Handwritten digits, ViT")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    with replacing("evaluate", "plot", path) as part:
        figure.savefig(part, dpi=120)
