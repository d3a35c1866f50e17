"""Handwritten digits: 1797 images that come with scikit-learn, so that nothing is downloaded."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import zoom

Array = np.ndarray[Any, Any]
SIDE = 32  # pixels, from 8: with patches of 4 an image has 64 patches
TEST_SHARE, SPLIT_SEED = 0.2, 0


class Split(NamedTuple):
    """Images `(S, side, side, 1)` float32 with mean 0 and deviation 1 over all of them, and labels `(S,)`."""

    images: Array
    labels: Array


def load_digits(side: int = SIDE) -> tuple[Split, Split]:
    """The training images (1437) and the test images (360), always the same ones, every digit as often in both.

    Args:
        side: pixels, to which the 8 are interpolated.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError:
        raise ImportError("digits need scikit-learn: pip install scikit-learn") from None

    found = datasets.load_digits()
    images = zoom(found.images, (1, side / 8, side / 8), order=1, grid_mode=True, mode="nearest")
    images = ((images - images.mean()) / images.std()).astype(np.float32)[..., None]
    train_x, test_x, train_y, test_y = train_test_split(
        images, found.target, test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=found.target
    )
    return Split(train_x, train_y), Split(test_x, test_y)
