"""The photograph: one's own, or the portrait that comes with matplotlib."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


MOST_PIXELS = 50_000_000  # 200 MB in memory; a small file can hold a picture of any size


class Refused(ValueError):
    """A picture that Pillow can read and we do not."""


def load_photo(path: str | PathLike[str] | None, size: int | tuple[int, int], *, owner: str = "demo") -> Array:
    """A photograph, `(height, width, 3)` float64 in [0, 1].

    Turned as its EXIF data says, on white where it is transparent, cropped to its middle, and scaled. Grey values of 16
    bits are brought to 8; of 32 bits or floating point nobody knows which is white, so darkest and brightest are black
    and white.

    Args:
        path: a picture in any format Pillow reads; None for the portrait of Grace Hopper among matplotlib's sample data
            (a photograph of the U.S. Navy, in the public domain).
        size: height and width in pixels, or one number for both.
        owner: who asks, the first word of a sentence about a mistake.

    Raises:
        ValueError: there is no such file, or it is no picture, or it has more than `MOST_PIXELS`.
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we have a bound of our own
            opened = Image.open(path)
        with opened as picture:
            if picture.width * picture.height > MOST_PIXELS:
                pixels = f"{picture.width} x {picture.height} pixels"
                raise Refused(
                    f"{owner}: `image` must have at most {MOST_PIXELS:,} pixels, got {pixels} in {str(path)!r}"
                )
            upright = ImageOps.exif_transpose(_in_bytes(picture)).convert("RGBA")
    except Refused:
        raise
    except Exception:  # Pillow's readers raise whatever they stumble over
        raise ValueError(f"{owner}: `image` must be a picture that Pillow can read, got {str(path)!r}") from None
    white = Image.new("RGBA", upright.size, "white")
    opaque = Image.alpha_composite(white, upright).convert("RGB")
    return np.asarray(ImageOps.fit(opaque, (width, height), Image.Resampling.LANCZOS)) / 255


def _in_bytes(picture: Any) -> Any:
    """A picture whose channels are bytes: conversion by Pillow would cut off what does not fit, and show white."""
    if picture.mode.startswith("I;16"):
        return _grey(picture, np.asarray(picture).astype(np.float64) / 257)
    if picture.mode in ("I", "F"):
        values = np.asarray(picture).astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("a picture with NaN or infinity in it")
        if picture.mode == "I" and picture.format == "PNG":  # which is how Pillow reads 16 bits there
            return _grey(picture, values / 257)
        low, high = values.min(), values.max()
        return _grey(picture, (values - low) * (255 / (high - low) if high > low else 0))
    return picture


def _grey(picture: Any, values: Array) -> Any:
    from PIL import Image

    grey = Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))
    exif = picture.getexif()
    grey.info["exif"] = exif.tobytes() if exif else b""
    return grey
