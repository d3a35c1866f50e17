"""Vision transformers of equimo (Equinox): a new model, whose blocks are one module that merges.

Equinox runs one sample at a time under `jax.vmap`; so does this, and a plan gets its batch there.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from equimo.layers.attention import Attention, AttentionBlock, rope_apply
from equimo.models.vit import VisionTransformer
from flax import nnx

from tokenmerge.backends.jax.merger import Merger
from tokenmerge.backends.jax.patching.adapter import Adapter, Stream, merging_block
from tokenmerge.backends.jax.patching.call import current, unmerged
from tokenmerge.backends.jax.patching.mergers import mergers, place

Array = jax.Array


def _heads(block: Any, x: Array, rotary: tuple[Array, ...], **options: Any) -> tuple[Array, Array, Array]:
    attention = block.attn

    def one(x: Array) -> Array:
        rows = jax.vmap(attention.qkv)(jax.vmap(block.prenorm)(x))
        split = rows.reshape(x.shape[0], 3, attention.num_heads, attention.head_dim)
        return jnp.transpose(split, (1, 2, 0, 3))

    query, key, value = jnp.moveaxis(jax.vmap(one)(x), 1, 0)
    query, key = _each(attention.q_norm, query), _each(attention.k_norm, key)
    if rotary:
        sine, cosine = (table[:, None] for table in rotary)
        query = rope_apply(query.astype(sine.dtype), sine, cosine).astype(query.dtype)
        key = rope_apply(key.astype(sine.dtype), sine, cosine).astype(key.dtype)
    return query, key, value


def _each(norm: Any, vectors: Array) -> Array:
    return jax.vmap(jax.vmap(jax.vmap(norm)))(vectors)


def _after_attention(block: Any, x: Array, attended: Array, *, key: Array, inference: bool | None) -> Array:
    key_attention, _, key_path, _ = jax.random.split(key, 4)
    branch = jax.vmap(jax.vmap(block.attn.proj))(attended)
    branch = block.attn.proj_drop(branch, inference=inference, key=jax.random.split(key_attention, 2)[1])
    branch = jax.vmap(lambda rows: block.ls1(jax.vmap(block.postnorm)(rows)))(branch)
    return block.drop_path1(x[0], branch[0], inference=inference, key=key_path)[None]


def _after_merging(block: Any, x: Array, *, key: Array, inference: bool | None) -> Array:
    _, key_mlp, _, key_path = jax.random.split(key, 4)
    branch = block.ls2(block.mlp(jax.vmap(block.norm)(x[0]), inference=inference, key=key_mlp))
    return block.drop_path2(x[0], branch, inference=inference, key=key_path)[None]


ADAPTER = Adapter(_heads, _after_attention, _after_merging, lambda block: block.attn.dim)


class MergingBlocks(eqx.Module):
    """All blocks of a network, with their mergers; takes the place of its tuple of chunks."""

    chunks: tuple[Any, ...]
    graphs: tuple[Any, ...] = eqx.field(static=True)
    states: tuple[Any, ...]
    prefix: int = eqx.field(static=True)
    place: tuple[tuple[str, Any], ...] = eqx.field(static=True)
    restore: bool = eqx.field(static=True)

    def merger(self, index: int) -> Merger | None:
        return None if self.graphs[index] is None else nnx.merge(self.graphs[index], self.states[index])

    def run(self, x: Array, rotary: Any, inference: bool | None, keys: Any) -> Array:
        """All blocks on one sample `(N,C)`; `keys`: of every chunk, as the network splits them."""
        tables: tuple[Array, ...] = ()
        if rotary is not None:  # tokens in front are not turned
            front = x.shape[0] - rotary[0].shape[0]
            tables = tuple(
                jnp.pad(table, ((front, 0), (0, 0)), constant_values=value)[None]
                for table, value in zip(rotary, (0, 1), strict=True)
            )
        stream = Stream(x[None], rotary=tables, prefix=self.prefix, **dict(self.place))
        index = 0
        for chunk, key in zip(self.chunks, keys, strict=True):
            for block, own in zip(chunk.blocks, jax.random.split(key, len(chunk.blocks) + 2)[1:], strict=False):
                merger = self.merger(index)
                if merger is None and not stream.merged:  # as if it were not patched, to the last bit
                    given = {} if rotary is None else {"rope_sincos": rotary}
                    y = block(stream.x[0], key=own, inference=inference, **given)[None]
                    stream = stream._replace(x=y, plans=(*stream.plans, None), sizes=(*stream.sizes, None))
                else:
                    stream = merging_block(ADAPTER, block, merger, stream, key=own, inference=inference)
                index += 1
        if (call := current()) is not None:
            sample = [jax.tree.map(lambda leaf: leaf[0], part) for part in (stream.plans, stream.sizes)]
            size, mask = jax.tree.map(lambda leaf: leaf[0], (stream.size, stream.mask))
            call.stream = Stream(stream.x[0], size, mask, plans=sample[0], sizes=sample[1], around=stream.around)
        return (unmerged(stream) if self.restore else stream.x)[0]


class _Chunk(eqx.Module):
    """The one chunk of a patched network: it is called once, with the key of the first of the chunks before."""

    blocks: MergingBlocks

    def __call__(self, x: Array, *, key: Array, inference: bool | None = None, rope_sincos: Any = None) -> Array:
        return self.blocks.run(x, rope_sincos, inference, [key])


def patch(model: VisionTransformer, name: str, *, restore: bool | None = None, **options: Any) -> VisionTransformer:
    """A new model that merges; arguments as in `tokenmerge.backends.jax.patch`.

    `restore=None` brings all tokens back before a network pools over them, so that every token weighs its size.
    """
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"patch: `model` must be a VisionTransformer of equimo, got {type(model).__name__}")
    if any(isinstance(chunk, _Chunk) for chunk in model.blocks):
        raise ValueError("patch: `model` must not be patched already, got one that is")
    if len(model.blocks) != 1 or model.blocks[0].downsample is not None:
        raise ValueError(f"patch: `model` must have one chunk of blocks and no downsampling, got {len(model.blocks)}")
    blocks = model.blocks[0].blocks
    for block in blocks:
        if type(block) is not AttentionBlock or type(block.attn) is not Attention:
            raise ValueError(f"patch: `model` must have blocks of plain attention, got {type(block.attn).__name__}")
    if name == "patch_merger" and model.local_pos_embed is not None:
        raise ValueError(
            "patch: `model` must have no rotary positions for 'patch_merger', whose tokens have no place, got some"
        )
    pools = model.global_pool != "token"
    restore = pools and name != "patch_merger" if restore is None else restore
    if pools and name == "ats":
        raise ValueError(f"patch: `model` must classify its class token for 'ats', got pooling {model.global_pool!r}")
    if name == "patch_merger" and not pools:
        raise ValueError("patch: `model` must pool for 'patch_merger', which leaves no class token, got 'token'")
    made = mergers(name, options, len(blocks), model.dim, model.num_prefix_tokens)
    split = [(None, None) if merger is None else nnx.split(merger) for merger in made]
    merging = MergingBlocks(
        model.blocks,
        tuple(graph for graph, _ in split),
        tuple(state for _, state in split),
        model.num_prefix_tokens,
        tuple(place(name, options).items()),
        restore,
    )
    return eqx.tree_at(lambda network: network.blocks, model, (_Chunk(merging),))
