"""Plans as pytrees: they go in and out of `jax.jit`, `jax.vmap` and what `jax.export` writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import export

Kind = TypeVar("Kind")


@jax.tree_util.register_static
class Static(tuple[str | None, ...]):
    """Words that a pytree carries along, and no compiler sees."""


export.register_pytree_node_serialization(
    Static,
    serialized_name="tokenmerge.Static",
    serialize_auxdata=lambda words: json.dumps(words).encode(),
    deserialize_auxdata=lambda words: Static(json.loads(words)),
)


@jax.tree_util.register_pytree_with_keys_class
class Blocks(tuple[Any, ...]):
    """One entry for every block, a pytree by the names of the blocks: `nnx.tabulate` cannot show plans in a list."""

    def tree_flatten_with_keys(self) -> tuple[tuple[Any, ...], None]:
        return tuple((jax.tree_util.DictKey(f"block {index}"), each) for index, each in enumerate(self)), None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> Blocks:
        return cls(children)


export.register_pytree_node_serialization(
    Blocks,
    serialized_name="tokenmerge.Blocks",
    serialize_auxdata=lambda _: b"",
    deserialize_auxdata=lambda _: None,
)


def pytree(*leaves: str) -> Callable[[type[Kind]], type[Kind]]:
    """Register a plan as a pytree of these fields, also for what `jax.export` writes.

    Not `register_dataclass`, which puts a plan together again by its constructor: the checks there would refuse what
    JAX puts in, leaves of another rank under `vmap` and placeholders.
    """
    static = ("num_tokens_in", "num_tokens_out")

    def register(kind: type[Kind]) -> type[Kind]:
        def flatten(plan: Kind) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            return tuple(getattr(plan, name) for name in leaves), tuple(getattr(plan, name) for name in static)

        def flatten_with_keys(plan: Kind) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            children, sizes = flatten(plan)
            return tuple(zip(map(jax.tree_util.GetAttrKey, leaves), children, strict=True)), sizes

        def unflatten(sizes: tuple[Any, ...], children: Any) -> Kind:
            plan = object.__new__(kind)
            for name, value in zip((*leaves, *static), (*children, *sizes), strict=True):
                object.__setattr__(plan, name, value)
            return plan

        jax.tree_util.register_pytree_with_keys(kind, flatten_with_keys, unflatten, flatten)
        export.register_pytree_node_serialization(
            kind,
            serialized_name=f"tokenmerge.{kind.__name__}",
            serialize_auxdata=lambda sizes: json.dumps(sizes).encode(),
            deserialize_auxdata=lambda sizes: tuple(json.loads(sizes)),
        )
        return kind

    return register
