"""An image through a network of any backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tokenmerge.backends import get_backend, get_vit
from tokenmerge.backends.registry import channels_first, own_way
from tokenmerge.files import read_tensors
from tokenmerge.pictures.viz import grey
from tokenmerge.spec.shared.vit_config import ViTConfig

Array = np.ndarray[Any, Any]

# mean and standard deviation of red, green and blue that an image in [0, 1] is measured by
NORMALIZATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "digits": ((0.305,) * 3, (0.324,) * 3),  # of scikit-learn's digits, white on black
}


def forward(
    config: ViTConfig, photo: Array, backend: str, params: Mapping[str, Array] | None, normalization: str = "imagenet"
) -> Any:
    """The output of a network for one image, with the batch axis in front.

    Args:
        config: the network; it sees colours, or grey where it has one channel.
        photo: `(height, width, 3)` floating point in [0, 1], of the configured size.
        backend: its name.
        params: parameters by timm's names; None for random ones.
        normalization: one of `NORMALIZATIONS`.

    Raises:
        ValueError: parameters that do not fit, or a network that sees neither colours nor grey.
    """
    if config.channels not in (1, 3):
        raise ValueError(f"visualize: `config` must have 1 or 3 channels, got {config.channels}")
    model = get_vit(config, backend=backend)
    if params is not None:
        model.load_params(params)
    if hasattr(model, "eval"):
        model.eval()
    mean, deviation = np.array(NORMALIZATIONS[normalization])
    image = ((photo - mean) / deviation).astype(np.float32)
    image = image if config.channels == 3 else grey(image).astype(np.float32)
    module = get_backend(backend)
    image = image.transpose(2, 0, 1) if channels_first(module) else image
    return own_way(module)(model)(module.from_numpy(np.ascontiguousarray(image[None])))


def load_weights(path: Path) -> dict[str, Array]:
    """The arrays of a safetensors file.

    Raises:
        ValueError: there is no such file, or it is none of safetensors.
    """
    if not path.is_file():
        raise ValueError(f"visualize: `weights` must be a file, got {str(path)!r}, which is not one")
    return read_tensors("visualize", "weights", path)


def num_classes(params: Mapping[str, Array]) -> int:
    """The classes of a checkpoint, 0 for one without a head.

    >>> num_classes({"head.weight": np.zeros((10, 4))}), num_classes({})
    (10, 0)
    """
    return len(params["head.weight"]) if np.ndim(params.get("head.weight", 0)) else 0
