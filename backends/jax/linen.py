"""The network and the mergers with parameters, and ATS, as Flax Linen modules, for code that uses `init` and `apply`.

Thin: the same pure functions as the NNX modules. Nothing else of this backend imports this file.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from tokenmerge.backends.jax import ats, ltm, patch_merger
from tokenmerge.backends.jax.batches import ones
from tokenmerge.backends.jax.check import check
from tokenmerge.backends.jax.initializers import initializer
from tokenmerge.backends.jax.numerics import floating, precision_name, told
from tokenmerge.backends.jax.precision import working_dtype
from tokenmerge.backends.jax.stream import ViTOutput
from tokenmerge.backends.jax.vit import vit
from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.merged import Merged
from tokenmerge.spec.shared.vit_config import ViTConfig
from tokenmerge.spec.shared.vit_parameters import parameter_shapes

Array = jax.Array


class ViT(linen.Module):
    """A vision transformer with mergers in its blocks; the semantics are those of `tokenmerge.spec.vit`.

    `variables["params"]` is a timm state dict: a flat dict of timm's names.

    Attributes:
        config: the network.
        dtype, param_dtype, precision, remat: as in `tokenmerge.backends.jax.ViT`.

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
    dtype: Any = None
    param_dtype: Any = None
    precision: Any = None
    remat: bool = False

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
        shapes, dtype = parameter_shapes(config), floating("vit", "param_dtype", self.param_dtype) or jnp.float32
        params = {name: self.param(name, initializer(config, name), shape, dtype) for name, shape in shapes.items()}
        drops = config.dropout or config.attn_dropout or config.emb_dropout or config.drop_path
        key = self.make_rng("dropout") if train and drops else None
        return vit(images, params, config, key, dtype=self.dtype, precision=self.precision, remat=self.remat)


class PatchMerger(linen.Module):
    """`num_tokens_out` learned queries, each a mixture of all tokens, see `tokenmerge.backends.jax.patch_merger`.

    Attributes:
        dim: C; num_tokens_out: M.
        logit_scale, normalize, eps: as in `patch_merger.plan`.
        use_bias: whether the LayerNorm has a bias.
        dtype, param_dtype, precision: as in `tokenmerge.backends.jax.PatchMerger`.

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
    dtype: Any = None
    param_dtype: Any = None
    precision: Any = None

    @linen.compact
    def __call__(self, x: Array, *, size: Array | None = None, mask: Array | None = None) -> Merged:
        """Merge `x (B,N,C)` to `(B,M,C)`.

        Raises:
            TypeError, ValueError: an argument of the wrong type, shape or range.
        """
        arguments.check_patch_merger(self.dim, self.num_tokens_out, self.logit_scale, self.eps)
        check.tokens("patch_merger", x, size, C=self.dim)
        dtype = floating("patch_merger", "param_dtype", self.param_dtype) or jnp.float32
        queries = self.param("queries", linen.initializers.normal(1.0), (self.num_tokens_out, self.dim), dtype)
        scale = self.param("scale", linen.initializers.ones, (self.dim,), dtype)
        bias = self.param("bias", linen.initializers.zeros, (self.dim,), dtype) if self.use_bias else None
        x = jnp.asarray(x, floating("patch_merger", "dtype", self.dtype))
        options: dict[str, Any] = {"logit_scale": self.logit_scale, "normalize": self.normalize, "eps": self.eps}
        made = patch_merger.plan(x, queries=queries, scale=scale, bias=bias, mask=mask, **options)
        normalized = patch_merger.inputs(x, scale, bias, self.normalize, self.eps, mask)
        size = ones(x, normalized.dtype) if size is None else size
        with told(precision_name("patch_merger", self.precision)):
            tokens = made.merge(normalized).astype(x.dtype)
        return Merged(tokens, made.merge_size(size), None, made)


class LTM(linen.Module):
    """Learnable token merging, see `tokenmerge.backends.jax.ltm`; its weight starts at zero.

    Attributes:
        dim: C.
        compression_ratio, protected, prior_smoothing: as in `ltm.plan`.
        dtype, param_dtype, precision: as in `tokenmerge.backends.jax.LTM`.

    >>> import jax.numpy as jnp
    >>> merger, x = LTM(dim=4, compression_ratio=0.5, protected=1), jnp.ones((1, 9, 4))
    >>> variables = merger.init(jax.random.key(0), x)
    >>> merger.apply(variables, x).tokens.shape, variables["params"]["weight"].shape
    ((1, 5, 4), (4,))
    """

    dim: int
    compression_ratio: float
    protected: int = 0
    prior_smoothing: float = 0.1
    dtype: Any = None
    param_dtype: Any = None
    precision: Any = None

    @linen.compact
    def __call__(
        self, x: Array, *, size: Array | None = None, prior: Array | None = None, mask: Array | None = None
    ) -> Merged:
        """Merge `x (B,N,C)` to `(B, protected + ceil(rho n), C)`.

        Raises:
            TypeError, ValueError: an argument of the wrong type, shape or range.
        """
        check.tokens("ltm", x, size, C=self.dim)
        dtype = floating("ltm", "param_dtype", self.param_dtype) or jnp.float32
        weight = self.param("weight", linen.initializers.zeros, (self.dim,), dtype)
        x = jnp.asarray(x, floating("ltm", "dtype", self.dtype))
        options: Any = {"protected": self.protected, "prior_smoothing": self.prior_smoothing}
        ratio = self.compression_ratio
        made = ltm.plan(x, weight=weight, compression_ratio=ratio, prior=prior, mask=mask, **options)
        size = ones(x, working_dtype(x)) if size is None else size
        x = x if mask is None else jnp.where(mask[:, :, None], x, 0)
        with told(precision_name("ltm", self.precision)):
            tokens = made.merge(x, size)
        return Merged(tokens, made.merge_size(size), made.mask, made)


class ATS(linen.Module):
    """Adaptive token sampling, see `tokenmerge.backends.jax.ats`; it has no parameters.

    Attributes:
        max_tokens: K; score, sampling: as in `ats.plan`.

    >>> import jax.numpy as jnp
    >>> merger, x, attn = ATS(max_tokens=4), jnp.ones((1, 9, 8)), jnp.full((1, 2, 9), 1 / 9)
    >>> merger.apply({}, x, attn=attn, value=jnp.ones((1, 2, 9, 4))).tokens.shape
    (1, 5, 8)
    """

    max_tokens: int
    score: str = "per_head"
    sampling: str = "inverse_transform"

    @linen.compact
    def __call__(self, x: Array, *, attn: Array, value: Array, **given: Any) -> Merged:
        """Keep the chosen tokens of `x (B,N,C)`; `given`: size, mask, uniforms, noise, as in the NNX module.

        Raises:
            TypeError, ValueError: an argument of the wrong type, shape or range.
        """
        return ats.ATS(self.max_tokens, self.score, self.sampling)(x, attn=attn, value=value, **given)
