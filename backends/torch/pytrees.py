"""Plans as pytrees of PyTorch: what goes in and out of `torch.compile`, `torch.export` and `torch.vmap`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils import _pytree as pytree


def register(cls: type[Any], tensors: tuple[str, ...], static: tuple[str, ...] = ()) -> None:
    """Make a plan a pytree: its tensors are the leaves, except those that are None, and its integers the structure."""

    def flatten(plan: Any) -> tuple[list[Any], Any]:
        present = tuple(name for name in tensors if getattr(plan, name) is not None)
        return [getattr(plan, name) for name in present], (present, tuple(getattr(plan, name) for name in static))

    def flatten_with_keys(plan: Any) -> tuple[list[tuple[Any, Any]], Any]:
        leaves, context = flatten(plan)
        return [(pytree.GetAttrKey(name), leaf) for name, leaf in zip(context[0], leaves, strict=True)], context

    def unflatten(leaves: Iterable[Any], context: Any) -> Any:
        plan = object.__new__(cls)  # unchecked: leaves need not be tensors (vmap puts its axes there)
        values = (
            dict.fromkeys(tensors)
            | dict(zip(context[0], leaves, strict=True))
            | dict(zip(static, context[1], strict=True))
        )
        for name, value in values.items():
            object.__setattr__(plan, name, value)
        return plan

    torch.serialization.add_safe_globals([cls])  # `torch.load(weights_only=True)` reads it
    name = f"{cls.__module__}.{cls.__name__}"
    pytree.register_pytree_node(
        cls, flatten, unflatten, serialized_type_name=name, flatten_with_keys_fn=flatten_with_keys
    )


class Static(tuple[str | None, ...]):
    """Words that a pytree carries along, and no exporter sees."""


pytree.register_pytree_node(
    Static,
    lambda words: ([], tuple(words)),
    lambda leaves, words: Static(words),
    serialized_type_name=f"{Static.__module__}.Static",
    flatten_with_keys_fn=lambda words: ([], tuple(words)),
)
