"""One case of the golden vectors, and small arrays to make it of.

Every number in the inputs has at most eight significant bits, so it is the same number in float16, bfloat16, float32
and float64, and one expected result serves all of them. Nothing is drawn at random, nothing comes out of exp.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Directions on a map, as integers. Products of the four main ones and of the zero vector are exact.
DIRECTIONS = {
    **{"E": (1, 0), "N": (0, 1), "W": (-1, 0), "S": (0, -1), "0": (0, 0)},
    **{"NE": (1, 1), "NW": (-1, 1), "SW": (-1, -1), "SE": (1, -1)},
    **{"ENE": (2, 1), "NNE": (1, 2), "NNW": (-1, 2), "WNW": (-2, 1)},
    **{"WSW": (-2, -1), "SSW": (-1, -2), "SSE": (1, -2), "ESE": (2, -1)},
}


@dataclass(frozen=True, eq=False)
class Vector:
    """Inputs and what they show; the result is not here, it is computed (`expected.py`).

    Args:
        id: unique, in words.
        rules: ids of the rules it exercises.
        about: what is to be seen, in one sentence.
        function: "tome", "ats", "patch_merger" or "ltm" for a call of a merger, else a key of `expected.FUNCTIONS`.
        config: every option, none left to a default.
        inputs: arrays by argument name: float32, int64 or bool.
        params: learned parameters by name, float32.
        samples: positions in the batch whose results are specified; None for all.
    """

    id: str
    rules: tuple[str, ...]
    about: str
    function: str
    config: dict[str, Any]
    inputs: dict[str, Array]
    params: dict[str, Array] = field(default_factory=dict)
    samples: tuple[int, ...] | None = None

    def float64(self, name: str) -> Array:
        """An input as the reference takes it."""
        array = self.inputs[name]
        return array.astype(np.float64) if array.dtype.kind == "f" else array

    def arguments(self) -> dict[str, Array]:
        """All inputs as the reference takes them."""
        return {name: self.float64(name) for name in self.inputs}


def floats(values: Any) -> Array:
    """A float32 array."""
    return np.array(values, np.float32)


def integers(values: Any) -> Array:
    """An int64 array."""
    return np.array(values, np.int64)


def booleans(*rows: str) -> Array:
    """A mask `(B,N)` written with 1 and 0.

    >>> booleans("110", "111").tolist()
    [[True, True, False], [True, True, True]]
    """
    return np.array([[character == "1" for character in row] for row in rows], bool)


def compass(*rows: str) -> Array:
    """Vectors `(B,N,2)` that point somewhere: east, north-east, and so on; "0" for the zero vector, "7,1" for itself.

    >>> compass("E NNW 7,1 0").tolist()
    [[[1.0, 0.0], [-1.0, 2.0], [7.0, 1.0], [0.0, 0.0]]]
    """
    return floats([[DIRECTIONS.get(name) or name.split(",") for name in row.split()] for row in rows])


# No two angles between these are alike.
UNEVEN = (
    "7,1 2,5 5,3 -1,-6 -7,-2 -8,1 3,-7 -2,9 1,8",
    "3,-2 -9,1 4,7 8,1 -5,2 7,4 -1,-8 1,9 -6,-5",
)


def numbered(b: int, n: int, c: int = 2) -> Array:
    """Tokens `(B,N,C)` that know their position: the first channel counts, the others vary.

    >>> numbered(1, 3).tolist()
    [[[1.0, -5.0], [2.0, -2.0], [3.0, -4.0]]]
    """
    i, j, k = np.ogrid[:b, :n, :c]
    return np.where(k == 0, 1 + j + 16 * i, (3 * j * j + 4 * k * j * (k > 1) + i) % 11 - 5).astype(np.float32)


def mixed(shape: tuple[int, ...], seed: int, divisor: int = 1) -> Array:
    """Integers from -11 to 11 without a pattern, divided by a power of two.

    >>> mixed((2, 3), seed=1).tolist()
    [[-1.0, -1.0, -9.0], [4.0, -2.0, 2.0]]
    """
    place = np.arange(int(np.prod(shape))).reshape(shape) + 13 * seed
    return ((place**3 + 5 * place * seed + 2) % 23 - 11).astype(np.float32) / divisor
