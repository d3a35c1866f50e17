"""The network that is trained: a name, a merger, and who reads the features before the classifier."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tokenmerge import models
from tokenmerge.backends.doors import get_vit
from tokenmerge.backends.torch.patching import patch
from tokenmerge.commands.merging import merging_from_options, network_options, patch_options
from tokenmerge.spec.mergers import MERGERS
from tokenmerge.training.images import Data, reseed
from tokenmerge.training.request import Request

OURS = "tokenmerge:"
POOLED = 32  # pixels a side that are clustered at most: centroids of whole photographs would not fit

Tensor = torch.Tensor


def side_of(request: Request, data: Data) -> int:
    """Pixels a side: what was asked for, or of the digits, or of the model.

    Raises:
        ValueError: no such model.
    """
    if request.input_size is not None:
        return request.input_size
    if data.side is not None:
        return data.side
    if request.model.startswith(OURS):
        size = models.preset(request.model.removeprefix(OURS), "train").options["image_size"]
        return int(size)
    return _timm_size(request.model)


def build(request: Request, data: Data, side: int) -> nn.Module:
    """The network with its merger and its first weights, which depend on the seed alone.

    Raises:
        ValueError, TypeError: no such model, or the merger does not fit.
    """
    reseed(request.seed)
    if request.model.startswith(OURS):
        merging: Any = merging_from_options(request.merger, owner="train", **request.knob)
        merging = merging if merging is None else replace(merging, **request.extra)
        changes: dict[str, Any] = {"num_classes": len(data.classes), "channels": data.channels, "image_size": side}
        changes |= network_options(merging) | ({"drop_path": request.drop_path} if request.drop_path else {})
        models.preset(request.model.removeprefix(OURS), "train")
        config = models.vit_config(request.model.removeprefix(OURS), **changes)
        return get_vit(config, backend="torch", seed=request.seed)
    model = _of_timm(request, data, side)
    if request.merger != "none":
        options = patch_options(request.merger, owner="train", **request.knob)
        patch(model, request.merger, **options, **request.extra)
    return model


def _timm_size(name: str) -> int:
    import timm

    if not timm.is_model(name):
        raise ValueError(f"train: `model` must be a name of timm or {OURS}NAME, got {name!r}")
    config: Any = timm.get_pretrained_cfg(name)
    return int(config.input_size[-1])


def _of_timm(request: Request, data: Data, side: int) -> nn.Module:
    import timm

    options: dict[str, Any] = {"num_classes": len(data.classes), "in_chans": data.channels}
    if request.drop_path:
        options["drop_path_rate"] = request.drop_path
    if request.merger in MERGERS and MERGERS[request.merger].ends_prefix:  # it may leave no class token
        options |= {"class_token": False, "global_pool": "avg"}
    if side != _timm_size(request.model):
        try:
            return timm.create_model(request.model, img_size=side, **options)
        except TypeError:  # a network of convolutions takes any size, and no such option
            pass
    return timm.create_model(request.model, **options)


class Reader:
    """What goes into the classifier: the pooled features `(B,C)` of the last call.

    Raises:
        ValueError: the model does not say which part its classifier is.
    """

    def __init__(self, model: nn.Module) -> None:
        self.features: Tensor | None = None
        classifier: Any = getattr(model, "get_classifier", None)
        found: Any = getattr(model, "head", None) if classifier is None else classifier()
        head = found[0] if isinstance(found, tuple | list) else found
        if not isinstance(head, nn.Module) or isinstance(head, nn.Identity):
            raise ValueError(f"train: `model` must have a classifier that can be found, got a {type(model).__name__}")
        head.register_forward_pre_hook(self._keep)

    def _keep(self, head: nn.Module, given: tuple[Tensor, ...]) -> None:
        x = given[0]
        self.features = x if x.ndim == 2 else x.flatten(2).mean(dim=2)

    def take(self) -> Tensor:
        assert self.features is not None
        features, self.features = self.features, None
        return features


def logits_of(output: Any) -> Tensor:
    """The logits in what a network returns."""
    found = getattr(output, "logits", output)
    assert isinstance(found, Tensor)
    return found


def pixels_of(images: Tensor) -> Tensor:
    """The pixels `(B,D)` that are clustered; those of large images are averaged first."""
    if images.shape[-1] > POOLED:
        images = nn.functional.adaptive_avg_pool2d(images, POOLED)
    return images.flatten(1)
