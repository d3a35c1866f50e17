"""The reference network behind the interface of a backend: `get_vit(config, backend="spec")`, image by image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tokenmerge.spec.batch_plan import BatchPlan
from tokenmerge.spec.shared.arguments import parameter
from tokenmerge.spec.shared.calls import Calls
from tokenmerge.spec.shared.vit_config import ViTConfig
from tokenmerge.spec.shared.vit_parameters import check_parameters, initial_parameters
from tokenmerge.spec.shared.vit_steps import steps
from tokenmerge.spec.stream import ViTOutput
from tokenmerge.spec.vit import vit

Array = np.ndarray[Any, Any]
check = Calls(np.ndarray)


class BatchOutput(NamedTuple):
    """`ViTOutput` with the batch axis in front."""

    logits: Array
    tokens: Array
    size: Array | None
    mask: Array | None
    plans: tuple[BatchPlan | None, ...]
    sizes: tuple[Array | None, ...]
    around: tuple[str | None, ...]

    @property
    def plan(self) -> BatchPlan:
        """The composed plan of every image."""
        composed = tuple(_sample(self, i).plan for i in range(len(self.logits)))
        return BatchPlan(composed, composed[0] if composed else _blank(self).plan)


class ViT:
    """`tokenmerge.spec.vit` for a batch.

    Args:
        config: the network; seed: of the first parameters.

    >>> model = ViT(ViTConfig(image_size=8, patch_size=4, dim=8, depth=1, heads=2, num_classes=3))
    >>> model(np.zeros((2, 8, 8, 3))).logits.shape
    (2, 3)
    """

    def __init__(self, config: ViTConfig, seed: int = 0) -> None:
        steps(config)  # a contradiction shows here, and not in the first call
        self.config, self._params = config, initial_parameters(config, seed)

    def params(self) -> dict[str, Array]:
        """The parameters by timm's names, as copies."""
        return {name: value.copy() for name, value in self._params.items()}

    def load_params(self, params: Mapping[str, Any]) -> None:
        """Take a timm state dict; a learned merger's parameters may all be missing and keep their values then."""
        check_parameters(self.config, params)
        self._params |= {name: parameter("vit", name, value) for name, value in params.items()}

    def __call__(self, images: Array) -> BatchOutput:
        """Images `(B, height, width, channels)`, taken in the precision of the parameters."""
        check.array("vit", "images", images, "B height width channels", **self.config.image_axes)
        images = images.astype(self._params["pos_embed"].dtype)
        blank = np.zeros(images.shape[1:], images.dtype)
        each = [vit(image, self._params, self.config) for image in images]
        return _stack(each, vit(blank, self._params, self.config) if not each else each[0])


def _stack(each: list[ViTOutput], like: ViTOutput) -> BatchOutput:
    def stack(arrays: list[Array], blank: Array | None) -> Array | None:
        if blank is None:
            return None
        return np.stack(arrays) if arrays else np.zeros((0, *blank.shape), blank.dtype)

    def plan(block: int) -> BatchPlan | None:
        shape = like.plans[block]
        made = tuple(plan for output in each if (plan := output.plans[block]) is not None)
        return None if shape is None else BatchPlan(made, shape)

    columns = {name: stack([getattr(o, name) for o in each], getattr(like, name)) for name in ViTOutput._fields[:4]}
    sizes = tuple(stack([o.sizes[i] for o in each], like.sizes[i]) for i in range(len(like.sizes)))  # type: ignore[misc]
    plans = tuple(map(plan, range(len(like.plans))))
    return BatchOutput(**columns, plans=plans, sizes=sizes, around=like.around)  # type: ignore[arg-type]


def _sample(output: BatchOutput, i: int) -> ViTOutput:
    return ViTOutput(
        output.logits[i],
        output.tokens[i],
        None if output.size is None else output.size[i],
        None if output.mask is None else output.mask[i],
        tuple(None if plan is None else plan.samples[i] for plan in output.plans),
        tuple(None if size is None else size[i] for size in output.sizes),
        output.around,
    )


def _blank(output: BatchOutput) -> ViTOutput:
    """A sample of the shapes that an empty batch has."""
    return ViTOutput(
        np.zeros(output.logits.shape[1:]),
        np.zeros(output.tokens.shape[1:]),
        None,
        None,
        tuple(None if plan is None else plan.shape for plan in output.plans),
        tuple(None if size is None else np.ones(size.shape[1:]) for size in output.sizes),
        output.around,
    )
