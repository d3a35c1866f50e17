"""Vision transformers in Flax NNX: patched in place, by classes of their own for the model and its blocks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tokenmerge.backends.jax.patching.adapter import Adapter, Stream, merging_block
from tokenmerge.backends.jax.patching.call import Merging, current, running, unmerged, with_plans
from tokenmerge.backends.jax.patching.mergers import mergers, place

Array = jax.Array

# The names of a block's parts, tried in this order.
ATTENTION = ("attn", "attention", "self_attn", "self_attention", "mha")
NORM1 = ("norm1", "ln1", "layer_norm1", "layernorm_before", "norm_before", "ln_1")
NORM2 = ("norm2", "ln2", "layer_norm2", "layernorm_after", "norm_after", "ln_2")
MLP = ("mlp", "ffn", "feed_forward", "feedforward")
SCALE1, SCALE2 = ("ls1", "layer_scale1"), ("ls2", "layer_scale2")
PATH1, PATH2 = ("drop_path1", "drop_path"), ("drop_path2", "drop_path")


def _part(block: Any, names: tuple[str, ...]) -> Any:
    return next((getattr(block, name) for name in names if callable(getattr(block, name, None))), None)


def _add(block: Any, x: Array, branch: Array, scale: tuple[str, ...], path: tuple[str, ...]) -> Array:
    for names in (scale, path):
        part = _part(block, names)
        branch = branch if part is None else part(branch)
    return x + branch


def _heads(block: Any, x: Array, rotary: Any, **options: Any) -> tuple[Array, Array, Array]:
    attention, inside = _part(block, ATTENTION), _part(block, NORM1)(x)
    query, key, value = attention.query(inside), attention.key(inside), attention.value(inside)
    if getattr(attention, "query_ln", None) is not None:
        query, key = attention.query_ln(query), attention.key_ln(key)
    return jnp.swapaxes(query, 1, 2), jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)


def _after_attention(block: Any, x: Array, attended: Array, **options: Any) -> Array:
    attention = _part(block, ATTENTION)
    split = attended.reshape(*attended.shape[:2], attention.num_heads, attended.shape[2] // attention.num_heads)
    return _add(block, x, attention.out(split), SCALE1, PATH1)


def _after_merging(block: Any, x: Array, **options: Any) -> Array:
    return _add(block, x, _part(block, MLP)(_part(block, NORM2)(x)), SCALE2, PATH2)


STANDARD = Adapter(_heads, _after_attention, _after_merging, lambda block: _part(block, ATTENTION).in_features)


def is_block(module: Any) -> bool:
    """Whether a module has the parts of a block, under names that are usual."""
    parts = (_part(module, NORM1), _part(module, NORM2), _part(module, MLP))
    return isinstance(_part(module, ATTENTION), nnx.MultiHeadAttention) and all(part is not None for part in parts)


def blocks_of(model: nnx.Module, adapters: dict[type, Adapter]) -> list[tuple[Any, Adapter]]:
    """The blocks in the order in which they are numbered, each with its adapter."""
    found = []
    for path, module in nnx.iter_graph(model):
        if type(module) in adapters:
            found.append((path, module, adapters[type(module)]))
        elif isinstance(module, nnx.Module) and is_block(module):
            found.append((path, module, STANDARD))
    found.sort(key=lambda item: [(int(part), "") if part.isdigit() else (-1, part) for part in map(str, item[0])])
    return [(module, adapter) for _, module, adapter in found]


class Handle:
    """A patched network.

    Calling it is calling the model, with what was merged as a second result: `logits, merging = handle(images)`.
    """

    def __init__(self, model: Any, original: type, blocks: list[tuple[Any, type]]) -> None:
        self.model, self._original, self._blocks = model, original, blocks

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, Merging]:
        return with_plans(self.model, *args, **kwargs)

    def remove(self) -> None:
        """The model as it was. A second time does nothing."""
        for block, original in self._blocks:
            block.__class__ = original
            if hasattr(block, "merger"):
                del block.merger
        if self._blocks:
            self.model.__class__ = self._original
        self._blocks = []

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def _merging_class(original: type, adapter: Adapter, index: int, last: bool, settings: dict[str, Any]) -> type:
    def call(self: Any, x: Array, *args: Any, **kwargs: Any) -> Array:
        run = current()
        if run is None:
            raise RuntimeError("patch: a patched block must run inside of its model, got a call of the block alone")
        if index == 0:
            run.stream = Stream(x, prefix=settings["prefix"], **settings["place"])
        assert run.stream is not None
        stream, merger = run.stream._replace(x=x), getattr(self, "merger", None)
        if merger is None and not stream.merged:  # as if it were not patched, to the last bit
            x = original.__call__(self, x, *args, **kwargs)
            run.stream = stream._replace(x=x, plans=(*stream.plans, None), sizes=(*stream.sizes, None))
        else:
            run.stream = merging_block(adapter, self, merger, stream)
        return unmerged(run.stream) if last and settings["restore"] else run.stream.x

    return type(original.__name__, (original,), {"__call__": call, "__module__": original.__module__})


def _model_class(original: type) -> type:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with running():
            return original.__call__(self, *args, **kwargs)

    return type(original.__name__, (original,), {"__call__": call, "__module__": original.__module__})


def check_adapter(block: Any, adapter: Adapter) -> None:
    """Compare a block with its reading of it, on a few tokens.

    Raises:
        ValueError: they differ, as for norms that come after a branch.
    """
    block = nnx.clone(block)
    block.eval()
    x = jax.random.normal(jax.random.key(0), (1, 5, adapter.width(block)))
    theirs, ours = jax.jit(lambda x: (block(x), merging_block(adapter, block, None, Stream(x)).x))(x)
    close = jnp.abs(theirs - ours).max() <= np.sqrt(np.finfo(np.float32).eps) * jnp.abs(theirs).max()
    if not close:
        raise ValueError(
            f"patch: `model` must have blocks that add attention and MLP of a norm, got {type(block).__name__}, which "
            "does something else (`adapters` takes a reading of it)"
        )


def patch(
    model: nnx.Module,
    name: str,
    *,
    prefix: int = 1,
    restore: bool = False,
    adapters: dict[type, Adapter] | None = None,
    **options: Any,
) -> Handle:
    """Patch a Flax NNX network in place; arguments as in `tokenmerge.backends.jax.patch`."""
    blocks = blocks_of(model, adapters or {})
    if not blocks:
        raise ValueError(
            f"patch: `model` must have blocks with attention, two norms and an MLP, got {type(model).__name__} in "
            "which none was found (`adapters` takes a reading of your own)"
        )
    if any(hasattr(block, "merger") for block, _ in blocks) or getattr(type(model), "_patched", False):
        raise ValueError("patch: `model` must not be patched already, got one that is (`remove()` its handle first)")
    for kind, adapter in {type(block): (block, adapter) for block, adapter in blocks}.values():
        check_adapter(kind, adapter)
    made = mergers(name, options, len(blocks), blocks[0][1].width(blocks[0][0]), prefix)
    settings = {"prefix": prefix, "restore": restore, "place": place(name, options)}
    handle = Handle(model, type(model), [(block, type(block)) for block, _ in blocks])
    for index, ((block, adapter), merger) in enumerate(zip(blocks, made, strict=True)):
        if merger is not None:
            block.merger = merger
        last = index == len(blocks) - 1
        block.__class__ = _merging_class(type(block), adapter, index, last, settings)
    model.__class__ = _model_class(type(model))
    type(model)._patched = True  # type: ignore[attr-defined]
    return handle
