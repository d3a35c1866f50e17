"""The network and PatchMerger as Flax Linen modules, for code that uses `init` and `apply` (docs/guides/jax.md).

Thin: the same pure functions as the NNX modules. Nothing else of this backend imports this file.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import linen

from tokenmerge.backends.jax import patch_merger
from tokenmerge.backends.jax.batches import ones
from tokenmerge.backends.jax.check import check
from tokenmerge.backends.jax.vit import ViTOutput, vit
from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.merged import Merged
from tokenmerge.spec.shared.vit_config import ViTConfig
from tokenmerge.spec.shared.vit_parameters import parameter_shapes

Array = jax.Array

# Deviations of what starts normal, as in `spec/shared/vit_parameters.py`; the numbers come from the key of `init`.
DEVIATIONS = {"cls_token": 1e-6, "reg_token": 1e-6, "dist_token": 1e-6, "queries": 1.0}


def initializer(config: ViTConfig, name: str) -> Any:
    """How the parameter of this name starts: a function of a key and a shape.

    >>> import jax.numpy as jnp
    >>> config = ViTConfig(layer_scale=0.1)
    >>> initializer(config, "blocks.0.ls1.gamma")(jax.random.key(0), (2,)).tolist() == [jnp.float32(0.1)] * 2
    True
    """
    last = name.rpartition(".")[2]
    if last == "gamma" and config.layer_scale is not None:
        return linen.initializers.constant(config.layer_scale)
    if last == "scale" or ("norm" in name and last == "weight"):
        return linen.initializers.ones
    if last == "bias" or name.endswith("merger.weight"):
        return linen.initializers.zeros
    return linen.initializers.normal(DEVIATIONS.get(last, 0.02))


class ViT(linen.Module):
    """A vision transformer with mergers in its blocks; the semantics are those of `tokenmerge.spec.vit`.

    `variables["params"]` is a timm state dict: a flat dict of timm's names.

    Attributes:
        config: the network.

    >>> import jax.numpy as jnp
    >>> from tokenmerge import ToMeMerging
    >>> small = dict(image_size=32, patch_size=4, dim=16, depth=2, heads=2, num_classes=5)
    >>> model, images = ViT(ViTConfig(**small, merging=ToMeMerging(r=8))), jnp.zeros((1, 32, 32, 3))
    >>> variables = model.init(jax.random.key(0), images)
    >>> out = model.apply(variables, images)
    >>> out.logits.shape, out.tokens.shape, variables["params"]["blocks.0.attn.qkv.weight"].shape
    ((1, 5), (1, 49, 16), (48, 16))
    """

    config: ViTConfig

    @linen.compact
    def __call__(self, images: Array, train: bool = False) -> ViTOutput:
        """Images `(B, height, width, channels)`, taken in the precision of the parameters.

        Args:
            train: whether dropout and stochastic depth act; `apply` then needs `rngs={"dropout": key}` if the
                configuration has any.

        Raises:
            TypeError, ValueError: images of another type or shape, or a configuration that contradicts itself.
        """
        check.array("vit", "images", images, "B height width channels", **self.config.image_axes)
        config = self.config
        shapes = parameter_shapes(config)
        params = {name: self.param(name, initializer(config, name), shape) for name, shape in shapes.items()}
        drops = config.dropout or config.attn_dropout or config.emb_dropout or config.drop_path
        return vit(images, params, config, self.make_rng("dropout") if train and drops else None)


class PatchMerger(linen.Module):
    """`num_tokens_out` learned queries, each a mixture of all tokens, see `tokenmerge.backends.jax.patch_merger`.

    Attributes:
        dim: C; num_tokens_out: M.
        logit_scale, normalize, eps: as in `patch_merger.plan`.
        use_bias: whether the LayerNorm has a bias.

    >>> import jax.numpy as jnp
    >>> merger, x = PatchMerger(dim=4, num_tokens_out=2), jnp.ones((1, 9, 4))
    >>> variables = merger.init(jax.random.key(0), x)
    >>> merger.apply(variables, x).tokens.shape, sorted(variables["params"])
    ((1, 2, 4), ['bias', 'queries', 'scale'])
    """

    dim: int
    num_tokens_out: int
    logit_scale: float | None = None
    normalize: bool = True
    use_bias: bool = True
    eps: float = 1e-5

    @linen.compact
    def __call__(self, x: Array, *, size: Array | None = None, mask: Array | None = None) -> Merged:
        """Merge `x (B,N,C)` to `(B,M,C)`.

        Raises:
            TypeError, ValueError: an argument of the wrong type, shape or range.
        """
        arguments.check_patch_merger(self.dim, self.num_tokens_out, self.logit_scale, self.eps)
        check.tokens("patch_merger", x, size, C=self.dim)
        queries = self.param("queries", linen.initializers.normal(1.0), (self.num_tokens_out, self.dim))
        scale = self.param("scale", linen.initializers.ones, (self.dim,))
        bias = self.param("bias", linen.initializers.zeros, (self.dim,)) if self.use_bias else None
        options: dict[str, Any] = {"logit_scale": self.logit_scale, "normalize": self.normalize, "eps": self.eps}
        made = patch_merger.plan(x, queries=queries, scale=scale, bias=bias, mask=mask, **options)
        normalized = patch_merger.inputs(x, scale, bias, self.normalize, self.eps, mask)
        size = ones(x, normalized.dtype) if size is None else size
        return Merged(made.merge(normalized).astype(x.dtype), made.merge_size(size), None, made)
