"""What is dropped while a network trains: all of it from one key, so that a step is a pure function of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


class Dropout:
    """The dropouts of one step, each with random numbers of its own; without a key nothing is dropped.

    Args:
        key: a PRNG key, or None for inference.

    >>> x = jnp.ones((2, 3, 4))
    >>> bool((Dropout(None)(x, 0.5) == x).all())
    True
    >>> sorted(set(Dropout(jax.random.key(0))(x, 0.5).ravel().tolist()))
    [0.0, 2.0]
    """

    def __init__(self, key: Array | None) -> None:
        self.key, self.drawn = key, 0

    def __call__(self, x: Array, rate: float) -> Array:
        """Every entry is zero with probability `rate`, else divided by `1 - rate`."""
        return self._drop(x, rate, x.shape)

    def path(self, x: Array, rate: float) -> Array:
        """Stochastic depth: whole samples of `x (B,N,C)`."""
        return self._drop(x, rate, (x.shape[0], 1, 1))

    def next_key(self, rate: float) -> Array | None:
        """The key of the next dropout, for those that draw their own numbers; None where nothing is dropped."""
        if self.key is None or rate == 0:
            return None
        self.drawn += 1
        return jax.random.fold_in(self.key, self.drawn)

    def _drop(self, x: Array, rate: float, shape: tuple[int, ...]) -> Array:
        key = self.next_key(rate)
        if key is None:
            return x
        return jnp.where(jax.random.bernoulli(key, 1 - rate, shape), x / (1 - rate), 0)
