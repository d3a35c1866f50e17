"""How the parameters of a network start when they come from a key of JAX, and not from a seed."""

from __future__ import annotations

from collections.abc import Callable

import jax

from tokenmerge.spec.shared.vit_config import ViTConfig
from tokenmerge.spec.shared.vit_parameters import parameter_shapes

# Deviations of what starts normal, as in `spec/shared/vit_parameters.py`; the numbers come from a key.
DEVIATIONS = {"cls_token": 1e-6, "reg_token": 1e-6, "dist_token": 1e-6, "queries": 1.0}


def initializer(config: ViTConfig, name: str) -> Callable[..., jax.Array]:
    """How the parameter of this name starts: a function of a key, a shape and a dtype.

    >>> import jax.numpy as jnp
    >>> config = ViTConfig(layer_scale=0.1)
    >>> initializer(config, "blocks.0.ls1.gamma")(jax.random.key(0), (2,)).tolist() == [jnp.float32(0.1)] * 2
    True
    """
    last = name.rpartition(".")[2]
    if last == "gamma" and config.layer_scale is not None:
        return jax.nn.initializers.constant(config.layer_scale)
    if last == "scale" or ("norm" in name and last == "weight"):
        return jax.nn.initializers.ones
    if last == "bias" or name.endswith("merger.weight"):
        return jax.nn.initializers.zeros
    return jax.nn.initializers.normal(DEVIATIONS.get(last, 0.02))


def drawn_parameters(config: ViTConfig, draw: Callable[[], jax.Array]) -> dict[str, jax.Array]:
    """First values of every parameter, in float32; `draw()` gives a key of its own for each.

    >>> list(drawn_parameters(ViTConfig(depth=1), lambda: jax.random.key(0)))[:2]
    ['cls_token', 'pos_embed']
    """
    return {name: initializer(config, name)(draw(), shape) for name, shape in parameter_shapes(config).items()}
