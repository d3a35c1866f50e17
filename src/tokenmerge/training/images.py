"""Images and labels. What happens to an image depends on seed, epoch and index, and on nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from tokenmerge.training.request import Request

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
OPENED_BEFOREHAND = 20_000  # files: more take minutes, and are looked at when their turn comes
Array = np.ndarray[Any, Any]


class BrokenImage(ValueError):
    """A file that is no image, or half of one."""


class Images(NamedTuple):
    """Images on disk or in memory.

    Attributes:
        sources: paths, or arrays `(height, width)` of bytes; labels: `(S,)`.
    """

    sources: list[Any]
    labels: Array


class Data(NamedTuple):
    """What a training works on.

    Attributes:
        train, val: the images; classes: their names; channels: 1 or 3.
        side: pixels, None where the images have none of their own; mean, std: for normalization.
    """

    train: Images
    val: Images
    classes: list[str]
    channels: int
    side: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load(request: Request) -> Data:
    """The data that was asked for.

    Raises:
        ValueError: there is no such folder, or fewer than two classes, an empty one, a file that cannot be read.
    """
    if request.data == "digits":
        return _digits()
    root = Path(request.data)
    if not root.is_dir():
        raise ValueError(f"train: `data` must be 'digits' or a folder of class folders, got {request.data!r}")
    split = (root / "train").is_dir() and (root / "val").is_dir()
    classes, train = _folder(root / "train" if split else root)
    if split:
        others, val = _folder(root / "val")
        if others != classes:
            differing = sorted(set(classes) ^ set(others))[0]
            raise ValueError(f"train: `data` must have the same classes in train and val, got {differing!r} in one")
    else:
        train, val = _split(train, classes, request.val_share)
    return Data(train, val, classes, 3, None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _digits() -> Data:
    from tokenmerge.digits.data import load_digits

    parts = load_digits()
    everything = np.concatenate([part.images for part in parts])
    low, high = everything.min(), everything.max()
    train, val = (
        Images([np.uint8(np.rint(255 * (each[..., 0] - low) / (high - low))) for each in part.images], part.labels)
        for part in parts
    )
    scaled = np.stack(train.sources) / 255
    mean, std = (float(scaled.mean()),), (float(scaled.std()),)
    return Data(train, val, [str(digit) for digit in range(10)], 1, scaled.shape[1], mean, std)


def _folder(root: Path) -> tuple[list[str], Images]:
    classes = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(classes) < 2:
        raise ValueError(f"train: `data` must be a folder of two class folders at least, got {len(classes)} in {root}")
    sources: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise ValueError(f"train: `data` must have images in every class folder, got none in {root / name}")
        sources += found
        labels += [label] * len(found)
    for path in sources if len(sources) <= OPENED_BEFOREHAND else []:
        try:
            with Image.open(path) as image:
                image.verify()
        except Exception as error:  # whatever a decoder raises
            raise _broken(path, error) from None
    return classes, Images(sources, np.array(labels))


def _split(images: Images, classes: list[str], share: float) -> tuple[Images, Images]:
    """Every class's share, drawn the same way every time."""
    rng = np.random.default_rng(0)
    held = np.zeros(len(images.labels), bool)
    for label, name in enumerate(classes):
        members = np.flatnonzero(images.labels == label)
        if len(members) < 2:
            raise ValueError(f"train: `data` must have two images in every class, one to test on, got 1 in {name!r}")
        count = min(len(members) - 1, max(1, round(share * len(members))))
        held[rng.permutation(members)[:count]] = True
    parts = [np.flatnonzero(~held), np.flatnonzero(held)]
    train, val = (Images([images.sources[i] for i in part], images.labels[part]) for part in parts)
    return train, val


class ImageSet(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Tensors of images; the draws of an augmentation are those of `(seed, epoch, index)`, whoever asks and when."""

    def __init__(self, images: Images, transform: Callable[[Any], torch.Tensor], mode: str, seed: int, epoch: int):
        self.images, self.transform, self.mode, self.seed, self.epoch = images, transform, mode, seed, epoch

    def __len__(self) -> int:
        return len(self.images.sources)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        reseed(self.seed, self.epoch, index)
        return self.transform(_read(self.images.sources[index], self.mode)), int(self.images.labels[index])


def reseed(*numbers: int) -> None:
    """Set every generator that augmentation, mixup, dropout and drop path draw from."""
    first, second = (int(each) for each in np.random.SeedSequence(numbers).generate_state(2))
    random.seed(first)
    np.random.seed(first)
    torch.manual_seed((first << 32) | second)


def _read(source: Any, mode: str) -> Image.Image:
    if isinstance(source, np.ndarray):
        return Image.fromarray(source)
    try:
        with Image.open(source) as image:
            return image.convert(mode)
    except Exception as error:  # whatever a decoder raises
        raise _broken(source, error) from None


def _broken(path: Path, error: Exception) -> BrokenImage:
    why = " ".join(str(error).split())[:100]
    return BrokenImage(f"train: `data` must hold images that can be read, got {str(path)!r} ({why})")


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """As timm's, which asks for 0 bits at the highest level; Pillow refuses that since its version 13."""
    from PIL import ImageOps

    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits >= 1 else image.point(lambda _: 0)


def transforms(request: Request, data: Data, side: int) -> tuple[Any, Any]:
    """timm's, for training and for testing. Digits are not mirrored, and little of them is cut off."""
    from timm import data as timm_data

    create_transform: Any = timm_data.create_transform  # type: ignore[attr-defined]
    digits = request.data == "digits"
    train = create_transform(
        (data.channels, side, side),
        is_training=True,
        scale=(0.8, 1.0) if digits else None,
        ratio=(0.9, 1.1) if digits else None,
        hflip=0.0 if digits else 0.5,
        color_jitter=request.color_jitter or None,
        auto_augment=request.aa,
        interpolation="bicubic",
        mean=data.mean,
        std=data.std,
        re_prob=request.reprob,
        re_mode="pixel",
    )
    for part in train.transforms:
        for operation in [
            *getattr(part, "ops", ()),
            *(each for policy in getattr(part, "policy", ()) for each in policy),
        ]:
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterize
    crop = 1.0 if digits else None
    val = create_transform((data.channels, side, side), mean=data.mean, std=data.std, crop_pct=crop)
    return train, val
