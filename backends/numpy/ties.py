"""Sorts whose ties go to the lower index: stable ones. NumPy's default is not, which shows from 17 entries on."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def descending(values: Array) -> Array:
    """The permutation that sorts `(B,N)` along the last axis, largest first.

    >>> descending(np.array([[0.0, 2.0, -0.0, 2.0]]))
    array([[1, 3, 0, 2]])
    """
    return np.argsort(-values, axis=-1, kind="stable")


def ascending(values: Array) -> Array:
    """The permutation that sorts `(B,N)` along the last axis, smallest first.

    >>> ascending(np.array([[0.0, 2.0, -0.0, 2.0]]))
    array([[0, 2, 1, 3]])
    """
    return np.argsort(values, axis=-1, kind="stable")


def true_first(flags: Array) -> Array:
    """The permutation that brings the True ones of `(B,N)` to the front and changes no order otherwise.

    >>> true_first(np.array([[False, True, False, True]]))
    array([[1, 3, 0, 2]])
    """
    return np.argsort(~flags, axis=-1, kind="stable")


def inverse(permutation: Array) -> Array:
    """Where each entry of a permutation `(B,N)` stands.

    >>> inverse(np.array([[2, 0, 1]]))
    array([[1, 2, 0]])
    """
    return np.argsort(permutation, axis=-1)
