"""One image through one network: the image, and the groups that its patches end in."""

from __future__ import annotations

from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

from rich.console import Console

from tokenmerge import models
from tokenmerge.backends import get_backend
from tokenmerge.commands import merging
from tokenmerge.pictures import panels, photo
from tokenmerge.spec.shared.arguments import check_choice
from tokenmerge.visualize import layers, network, picture

SHOWN = 448  # pixels in a row of the picture that is drawn on, at least; a network may see fewer


def run(
    image: str | PathLike[str] | None = None,
    *,
    model: str,
    merger: str,
    out: str | PathLike[str] = "tokenmerge-groups.png",
    weights: str | PathLike[str] | None = None,
    every_layer: bool = False,
    backend: str | None = None,
    normalization: str | None = None,
    **options: Any,
) -> list[layers.Layer]:
    """Run a named network with a merger on an image and write a picture of the groups.

    Args:
        image: the photograph; None for one that comes with matplotlib.
        model: a name of `tokenmerge.models.PRESETS`.
        merger: "tome", "ats", "patch_merger", "ltm" or "none"; options: of `merging.merging_from_options`.
        out: the picture to write.
        weights: a safetensors file in timm's names; None for what comes with the model, or random parameters.
        every_layer: a panel for every block that merges, not only for the last.
        backend: a name; None for PyTorch where it is installed, else NumPy.
        normalization: of the image, see `network.NORMALIZATIONS`; None for the model's.

    Returns:
        What was drawn, in order.

    Raises:
        ValueError: an argument that cannot be used; nothing has been written then.
        ImportError: the framework of the backend is not installed.
    """
    out = Path(out)
    panels.check_out(out, owner="visualize")
    preset = models.preset(model, "visualize")
    normalization = preset.normalization if normalization is None else normalization
    check_choice("visualize", "normalize", normalization, network.NORMALIZATIONS)
    chosen = merging.on_stream(merging.merging_from_options(merger, owner="visualize", **options))
    changes = merging.network_options(chosen)
    backend = backend or ("torch" if find_spec("torch") else "numpy")
    get_backend(backend)
    file = models.shipped_weights(model) if weights is None else Path(weights)
    params = None if file is None else network.load_weights(file)
    if params is not None:
        changes["num_classes"] = network.num_classes(params)
    config = models.vit_config(model, **changes)

    height, width = config.image_shape
    larger = max(1, -(-SHOWN // max(height, width)))
    seen = photo.load_photo(image, (height, width), owner="visualize")
    shown = photo.load_photo(image, (larger * height, larger * width), owner="visualize")
    output = network.forward(config, seen, backend, params, normalization)
    drawn = layers.layers(output, get_backend(backend).to_numpy, config.prefix_tokens)
    drawn = drawn if every_layer else drawn[-1:]
    picture.write_picture(out, shown, config.grid, config.prefix_tokens, drawn)

    console = Console()
    if params is None:
        note = "No weights were given: the parameters are random, and the groups show what looks alike, not what it is."
        console.print(note, highlight=False, soft_wrap=True)
    done = f"{config.num_tokens} → {drawn[-1].tokens} tokens. The picture is in {out}."
    console.print(done, highlight=False, soft_wrap=True)
    return drawn
