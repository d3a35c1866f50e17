"""The rows in the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from tokenmerge.bench.row import Row

NOTES = (
    "ratio: median of comparison / ours over the rounds, with its quartiles; above 1 ours is faster.",
    "× floor: how many times what the machine needs at the least to move the bytes and do the multiply-adds.",
    "peak: memory at the highest point of a call, results included and inputs not, ours / the comparison's.",
    "predicted: the ratio of the counted multiply-adds.",
    "against its merging alone: the ratio is the share of the network's time that goes into merging.",
)


def table(rows: Iterable[Row]) -> Table:
    """A row per comparison."""
    made = Table(box=SIMPLE_HEAD, caption="\n".join(NOTES), caption_justify="left", caption_style="dim")
    made.add_column("operation")
    made.add_column("shape")
    made.add_column("backend")
    made.add_column("against")
    for heading in ("ms", "its ms", "ratio", "quartiles", "predicted", "× floor", "peak MB"):
        made.add_column(heading, justify="right")
    before = None
    for row in rows:
        if before is not None and row.operation != before:
            made.add_section()
        before = row.operation
        made.add_row(
            row.operation,
            shape_words(row.shape),
            f"{row.backend} {row.device} {row.dtype}",
            row.against,
            _milliseconds(row.ours),
            _milliseconds(row.other),
            _ratio(row.ratio),
            f"{row.low:.2f} to {row.high:.2f}",
            "" if row.predicted is None else f"{row.predicted:.2f}",
            "" if row.of_floor is None else f"{row.of_floor:.1f}",
            _peaks(row.our_peak, row.other_peak),
        )
    return made


def shape_words(shape: dict[str, Any]) -> str:
    """`B=8 N=197`."""
    return " ".join(f"{name}={value}" for name, value in shape.items())


def _milliseconds(seconds: float) -> str:
    """Three digits at least.

    >>> _milliseconds(0.0000821), _milliseconds(0.1234)
    ('0.0821', '123.40')
    """
    return f"{1000 * seconds:.2f}" if seconds >= 0.001 else f"{1000 * seconds:.3g}"


def _ratio(ratio: float) -> Text:
    """A ratio far below one is a share, and wants its digits."""
    return Text(f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.4f}", style="green" if ratio >= 1 else "red")


def _peaks(ours: int | None, other: int | None) -> str:
    if ours is None:
        return ""
    return " / ".join("?" if size is None else f"{size / 1e6:.1f}" for size in (ours, other))
