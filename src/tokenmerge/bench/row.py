"""What is measured, and what came out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

Call = Callable[[], Any]


@dataclass(frozen=True)
class Work:
    """The least that an operation must do.

    Attributes:
        bytes: read once and written once.
        multiply_adds: of matrix products.
    """

    bytes: float
    multiply_adds: float = 0.0

    def seconds(self, bandwidth: float, rate: float) -> float:
        """The floor on a machine that moves `bandwidth` bytes and does `rate` multiply-adds a second at the same time.

        >>> Work(bytes=8.0, multiply_adds=3.0).seconds(bandwidth=4.0, rate=1.0)
        3.0
        """
        return max(self.bytes / bandwidth, self.multiply_adds / rate)


@dataclass(frozen=True)
class Case:
    """One comparison that can be timed.

    Attributes:
        operation: name, such as "tome".
        backend, device, dtype: of ours.
        shape: numbers by name.
        ours: waits until the result is there; other: the same for what it is compared with.
        against: what that is.
        work: the floor; None where it is not counted.
        predicted: ratio that counted multiply-adds promise; None where there is none.
        our_peak, other_peak: bytes at the highest point of a call beyond what the inputs take; None where unknown.
    """

    operation: str
    backend: str
    device: str
    dtype: str
    shape: dict[str, Any]
    ours: Call
    other: Call
    against: str
    work: Work | None = None
    predicted: float | None = None
    our_peak: Callable[[], int | None] | None = None
    other_peak: Callable[[], int | None] | None = None


@dataclass(frozen=True)
class Row:
    """What was measured of a case.

    Attributes:
        ours, other: median seconds of a call.
        ratio: median over rounds of `other / ours`; above 1 ours is faster. low, high: its quartiles.
        rounds: how often each was called.
        floor: seconds; of_floor: `ours / floor`, 1 at the limit of the machine.
    """

    operation: str
    backend: str
    device: str
    dtype: str
    shape: dict[str, Any]
    against: str
    ours: float
    other: float
    ratio: float
    low: float
    high: float
    rounds: int
    floor: float | None
    of_floor: float | None
    predicted: float | None
    our_peak: int | None
    other_peak: int | None

    def as_json(self) -> dict[str, Any]:
        """The attributes by name."""
        return asdict(self)
