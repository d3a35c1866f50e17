"""The photograph: one's own, or the portrait that comes with matplotlib."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def load_photo(path: str | PathLike[str] | None, size: int | tuple[int, int], *, owner: str = "demo") -> Array:
    """A photograph, `(height, width, 3)` float64 in [0, 1].

    Turned as its EXIF data says, on white where it is transparent, cropped to its middle, and scaled.

    Args:
        path: a picture in any format Pillow reads; None for the portrait of Grace Hopper among matplotlib's sample data
            (a photograph of the U.S. Navy, in the public domain).
        size: height and width in pixels, or one number for both.
        owner: who asks, the first word of a sentence about a mistake.

    Raises:
        ValueError: there is no such file, or it is no picture.
    """
    from matplotlib.cbook import get_sample_data
    from PIL import Image, ImageOps

    height, width = size if isinstance(size, tuple) else (size, size)
    path = Path(get_sample_data("grace_hopper.jpg", asfileobj=False) if path is None else path)
    if not path.is_file():
        raise ValueError(
            f"{owner}: `image` must be a file, got {str(path)!r}, which is "
            f"{'a folder' if path.is_dir() else 'not there'}"
        )
    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture).convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise ValueError(f"{owner}: `image` must be a picture that Pillow can read, got {str(path)!r}") from None
    white = Image.new("RGBA", upright.size, "white")
    opaque = Image.alpha_composite(white, upright).convert("RGB")
    return np.asarray(ImageOps.fit(opaque, (width, height), Image.Resampling.LANCZOS)) / 255
