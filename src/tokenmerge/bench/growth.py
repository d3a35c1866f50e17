"""How plan and merge of ToMe grow with the tokens, with r and with the batch."""

from __future__ import annotations

from collections.abc import Iterator

from tokenmerge.bench.machine import Limits
from tokenmerge.bench.operators import cases
from tokenmerge.bench.row import Row
from tokenmerge.bench.run import measure
from tokenmerge.bench.subject import Subject

START = {"B": 1, "N": 1025, "D": 64, "C": 768, "r": 128}
STEPS = {
    "N": (16, 65, 257, 1025, 4097, 16384),
    "r": (1, 8, 32, 128, 512),
    "B": (1, 4, 16, 64, 128),
}


def growth(subject: Subject, limits: Limits, seconds: float) -> Iterator[tuple[str, Row]]:
    """Which number grows, and the row."""
    for number, values in STEPS.items():
        for value in values:
            shape = START | {number: value}
            if number == "B":
                shape["N"] = 197
            shape["r"] = min(shape["r"], (shape["N"] - 1) // 2)
            yield number, measure(next(cases("tome", subject, shape)), limits, seconds)
