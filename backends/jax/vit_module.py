"""The vision transformer as a Flax NNX module, over the pure function of `vit.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tokenmerge.backends.jax.check import check
from tokenmerge.backends.jax.initializers import drawn_parameters
from tokenmerge.backends.jax.named import Named
from tokenmerge.backends.jax.numerics import draws_parameters, floating, precision_name
from tokenmerge.backends.jax.stream import ViTOutput
from tokenmerge.backends.jax.vit import vit
from tokenmerge.spec.shared.arguments import check_flag, parameter
from tokenmerge.spec.shared.vit_config import ViTConfig
from tokenmerge.spec.shared.vit_parameters import check_parameters, initial_parameters, parameter_shapes
from tokenmerge.spec.shared.vit_steps import steps

Array = jax.Array
_compiled = jax.jit(vit, static_argnames=("config", "dtype", "precision", "remat"))


class ViT(Named):
    """A vision transformer with mergers in its blocks; the semantics are those of `tokenmerge.spec.vit`.

    Args:
        config: the network.
        seed: of the first parameters, which are the same in every backend.
        rngs: where dropout takes its keys from (the stream "dropout"), and where the first parameters come from if
            there is a stream "params" or a default one. None: both from `seed`.
        dtype: in which the layers compute; None for that of the parameters. Norms and decisions stay float32 at least.
        param_dtype: of the parameters, those that are loaded too; None for float32, or for what is loaded.
        precision: of products that no decision is made of; None for `jax.default_matmul_precision`.
        remat: whether a block is computed again in the backward pass, which keeps its input and nothing else.

    As in timm, dropout and stochastic depth act until `eval()` is called, and again after `train()`. Every parameter
    is an `nnx.Param` at the place that its name in timm says: `model.blocks[0].attn.qkv.weight`.

    Raises:
        TypeError, ValueError: a configuration that contradicts itself, or a dtype or precision that there is not.

    >>> from tokenmerge import ToMeMerging
    >>> small = dict(image_size=32, patch_size=4, dim=16, depth=2, heads=2, num_classes=5)
    >>> out = ViT(ViTConfig(**small, merging=ToMeMerging(r=8)))(jnp.zeros((1, 32, 32, 3)))
    >>> out.logits.shape, out.tokens.shape, out.plan.unmerge(out.tokens).shape
    ((1, 5), (1, 49, 16), (1, 65, 16))
    """

    OPTIONS = ("rngs", "dtype", "param_dtype", "precision", "remat")  # that other frameworks do not have

    def __init__(
        self,
        config: ViTConfig,
        seed: int = 0,
        *,
        rngs: nnx.Rngs | None = None,
        dtype: Any = None,
        param_dtype: Any = None,
        precision: Any = None,
        remat: bool = False,
    ) -> None:
        steps(config)  # a contradiction shows here, and not in the first call
        check_flag("vit", "remat", remat)
        self.dtype, self.param_dtype = floating("vit", "dtype", dtype), floating("vit", "param_dtype", param_dtype)
        self.precision, self.remat = precision_name("vit", precision), remat
        drawn = draws_parameters("vit", rngs)
        first = drawn_parameters(config, rngs.params) if rngs and drawn else initial_parameters(config, seed)
        super().__init__({name: jnp.asarray(value, self.param_dtype) for name, value in first.items()})
        self.config = config
        self.deterministic = False  # what `train()` and `eval()` set
        drops = config.dropout or config.attn_dropout or config.emb_dropout or config.drop_path
        self.rngs = (rngs or nnx.Rngs(dropout=seed))["dropout"].fork() if drops else None

    def params(self) -> dict[str, np.ndarray[Any, Any]]:
        """The parameters by timm's names, as NumPy copies."""
        own = self.named()  # in any order: a transformation of Flax may put the attributes into another
        return {name: np.array(own[name][...]) for name in parameter_shapes(self.config)}

    def load_params(self, params: Mapping[str, Any]) -> None:
        """Take a timm state dict of NumPy arrays or of anything that `numpy.asarray` reads, in `param_dtype` or in its
        own precision, bfloat16 of PyTorch too.

        float64 needs JAX's x64 mode. A learned merger's parameters may all be missing and keep their values then.

        Raises:
            TypeError, ValueError: names that are missing, unexpected or of the wrong shape; nothing is changed then.
        """
        check_parameters(self.config, params)
        own = self.named()
        taken = {name: parameter("vit", name, value, self.param_dtype) for name, value in params.items()}
        for name, value in taken.items():  # all of them, or none
            half = str(getattr(params[name], "dtype", "")).endswith("bfloat16")  # which NumPy does not have
            own[name].set_value(jnp.array(value, self.param_dtype or (jnp.bfloat16 if half else None)))

    def __call__(self, images: Array) -> ViTOutput:
        """Images `(B, height, width, channels)`, see `vit`."""
        check.array("vit", "images", images, "B height width channels", **self.config.image_axes)
        params = {name: value[...] for name, value in self.named().items()}
        key = None if self.deterministic or self.rngs is None else self.rngs()
        return _compiled(images, params, self.config, key, dtype=self.dtype, precision=self.precision, remat=self.remat)
