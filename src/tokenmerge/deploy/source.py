"""Where a model comes from: a name of timm or Hugging Face, a network of ours, or a module somebody saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tokenmerge import models
from tokenmerge.commands.merging import merging_from_options, network_options, patch_options
from tokenmerge.spec.mergers import MERGERS

OURS = "tokenmerge:"  # in front of the name of a network of ours


def load_model(
    name: str, *, merger: str = "none", weights: Path | None = None, ours: bool = False, **options: Any
) -> torch.nn.Module:
    """The model of a name, in evaluation mode, with a merger in it.

    Args:
        name: of timm; a folder or a name of Hugging Face (with a `/`); `tokenmerge:NAME` for a network of ours, such as
            `tokenmerge:digits`; or a file ending in `.pt` that `torch.save` wrote of a whole module, which runs the
            code in it.
        merger: "tome", "ats", "patch_merger", "ltm" or "none"; options: of the merger, as on the command line.
        weights: a safetensors file of the model's parameters; None for what comes with the model, or random ones.
        ours: take our own network for a name of timm, too.

    Raises:
        ValueError: there is no such model, or the merger or the weights do not fit.
        ImportError: the library that the name belongs to is not installed.
    """
    if name.startswith(OURS) or ours:
        return _ours(name.removeprefix(OURS), merger, weights, options)
    if name.endswith((".pt", ".pth")):
        model = _saved(Path(name))
    elif "/" in name:
        model = _of_transformers(name)
    else:
        model = _of_timm(name, merger)
    if weights is not None:
        _load_weights(model, weights)
    model.eval()
    if merger != "none":
        from tokenmerge.backends.torch.patching import patch

        patch(model, merger, **patch_options(merger, owner="export", **options))
    return model


def _ours(name: str, merger: str, weights: Path | None, options: dict[str, Any]) -> torch.nn.Module:
    from tokenmerge.backends.torch.vit import ViT
    from tokenmerge.visualize.network import load_weights, num_classes

    changes = network_options(merging_from_options(merger, owner="export", **options))
    file = models.shipped_weights(name) if weights is None else weights
    params = None if file is None else load_weights(file)
    if params is not None:
        changes["num_classes"] = num_classes(params)
    network = ViT(models.vit_config(name, **changes))
    if params is not None:
        network.load_params(params)
    return network.eval()


def _of_timm(name: str, merger: str) -> torch.nn.Module:
    try:
        import timm
    except ModuleNotFoundError:
        raise ImportError("export: a model by its name needs timm: pip install timm") from None
    if not timm.is_model(name):
        raise ValueError(f"export: `model` must be a name of timm, a folder, {OURS}NAME or a .pt file, got {name!r}")
    # it may leave no class token
    pooling: dict[str, Any] = (
        {"class_token": False, "global_pool": "avg"} if merger in MERGERS and MERGERS[merger].ends_prefix else {}
    )
    return timm.create_model(name, **pooling)


def _of_transformers(name: str) -> torch.nn.Module:
    try:
        from transformers import AutoModelForImageClassification
    except ModuleNotFoundError:
        raise ImportError("export: a model of Hugging Face needs transformers: pip install transformers") from None
    try:
        return AutoModelForImageClassification.from_pretrained(name)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"export: `model` must be one that transformers can load, got {name!r} ({first})") from None


def _saved(path: Path) -> torch.nn.Module:
    if not path.is_file():
        raise ValueError(f"export: `model` must be a file, got {str(path)!r}, which is not one")
    try:
        model = torch.load(path, weights_only=False, map_location="cpu")
    except Exception as error:  # whatever unpickling somebody's module raises
        raise ValueError(
            f"export: `model` must be a module that torch.save wrote, got {str(path)!r} ({error})"
        ) from None
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"export: `model` must hold a whole module, got {str(path)!r} with a {type(model).__name__}")
    return model


def _load_weights(model: torch.nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        first = " ".join(str(error).split())[:200]
        raise ValueError(
            f"export: `weights` must be a safetensors file of this model's parameters, got {str(path)!r} ({first})"
        ) from None


def image_shape(model: Any) -> tuple[int, int, int]:
    """Channels, height and width of the images that a model was built for.

    Raises:
        ValueError: it does not say.
    """
    if hasattr(model, "config") and hasattr(model.config, "image_shape"):  # ours
        return (model.config.channels, *model.config.image_shape)
    patches: Any = getattr(model, "patch_embed", None)
    size = getattr(patches, "img_size", None)
    if size is not None:
        return (patches.proj.in_channels, *size)
    config = getattr(model, "config", None)
    config = getattr(config, "vision_config", config)
    size = getattr(config, "image_size", None)
    if size is not None:
        side = size if isinstance(size, tuple | list) else (size, size)
        return (getattr(config, "num_channels", 3), side[0], side[1])
    raise ValueError(
        f"export: `image_shape` must be given for a {type(model).__name__}, which does not say what it sees"
    )
