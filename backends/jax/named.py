"""Parameters of a module at the places that their dotted names say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jax
from flax import nnx


class Named(nnx.Module):
    """Holds parameters, and modules of parameters, as attributes; numbered ones also by index.

    Args:
        params: arrays by dotted names.

    >>> import jax.numpy as jnp
    >>> module = Named({"blocks.0.norm.weight": jnp.ones(3), "bias": jnp.zeros(2)})
    >>> module.blocks[0].norm.weight.shape, list(module.named())
    ((3,), ['blocks.0.norm.weight', 'bias'])
    """

    def __init__(self, params: Mapping[str, jax.Array]) -> None:
        below: dict[str, dict[str, jax.Array]] = {}
        for name, value in params.items():
            first, _, rest = name.partition(".")
            below.setdefault(first, {})[rest] = value
        for first, values in below.items():
            setattr(self, first, nnx.Param(values[""]) if "" in values else Named(values))

    def __getitem__(self, index: int) -> Named:
        return getattr(self, str(index))

    def named(self) -> dict[str, nnx.Param[jax.Array]]:
        """The parameters by their dotted names."""
        return dict(self._named())

    def _named(self) -> Iterator[tuple[str, nnx.Param[jax.Array]]]:
        for name, value in vars(self).items():
            if isinstance(value, nnx.Param):
                yield name, value
            elif isinstance(value, Named):
                yield from ((f"{name}.{rest}", param) for rest, param in value._named())
