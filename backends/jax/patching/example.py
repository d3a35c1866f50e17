"""A vision transformer as Flax's own tutorial writes it, for examples and tests."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

Array = jax.Array


class Block(nnx.Module):
    """Attention and MLP, each of a norm, each added."""

    def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.LayerNorm(dim, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(heads, dim, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(dim, rngs=rngs)
        self.mlp = nnx.Sequential(nnx.Linear(dim, 4 * dim, rngs=rngs), nnx.gelu, nnx.Linear(4 * dim, dim, rngs=rngs))

    def __call__(self, x: Array) -> Array:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nnx.Module):
    """Patches, a class token, blocks, and a classifier of the class token or of the mean.

    >>> VisionTransformer(rngs=nnx.Rngs(0))(jnp.ones((2, 16, 16, 3))).shape
    (2, 5)
    """

    def __init__(self, dim: int = 16, depth: int = 2, heads: int = 2, pool: str = "class", *, rngs: nnx.Rngs) -> None:
        self.patches = nnx.Conv(3, dim, (4, 4), strides=(4, 4), padding="VALID", rngs=rngs)
        self.class_token = nnx.Param(jax.random.normal(rngs.params(), (1, 1, dim)))
        self.positions = nnx.Param(jax.random.normal(rngs.params(), (1, 17, dim)))
        self.encoder = nnx.Sequential(*[Block(dim, heads, rngs=rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(dim, rngs=rngs)
        self.head = nnx.Linear(dim, 5, rngs=rngs)
        self.pool = pool

    def __call__(self, images: Array) -> Array:
        patches = self.patches(images)
        patches = patches.reshape(patches.shape[0], -1, patches.shape[-1])
        first = jnp.broadcast_to(self.class_token[...], (patches.shape[0], 1, patches.shape[-1]))
        x = self.encoder(jnp.concatenate([first, patches], axis=1) + self.positions[...])
        return self.head(self.norm(x[:, 0] if self.pool == "class" else x.mean(axis=1)))
