"""What the four merger objects share: parameters by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export

from tokenmerge.backends.jax.numerics import Dtype, floating, precision_name
from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.merged import Merged

export.register_namedtuple_serialization(Merged, serialized_name="tokenmerge.Merged")


class Merger(nnx.Module):
    """Base of the mergers; `PARAMETERS` are the attributes that are learned, each an `nnx.Param` or None.

    Attributes:
        FUNCTION: the pure function that plans.
        VALUES: what is mixed in place of the tokens, from tokens, mask and parameters; None for the tokens themselves.
        HAND_ON: the mask inside a plan, for the next block of a network; None where nothing is handed on.
    """

    NAME: str
    FUNCTION: Callable[..., Any]
    VALUES: Callable[..., Any] | None = None
    HAND_ON: Callable[..., Any] | None = None
    PARAMETERS: tuple[str, ...] = ()
    OPTIONS: tuple[str, ...] = ()  # that other frameworks do not have

    def _numerics(self, dtype: Any, param_dtype: Any, precision: Any) -> Dtype:
        """Take how the merger computes, and return the dtype of its parameters."""
        self.dtype = floating(self.NAME, "dtype", dtype)
        self.precision = precision_name(self.NAME, precision)
        return floating(self.NAME, "param_dtype", param_dtype) or np.dtype(np.float32)

    def params(self) -> dict[str, np.ndarray[Any, Any]]:
        """The learned parameters by name, as NumPy copies; the names are the same in every backend."""
        values = {name: getattr(self, name) for name in self.PARAMETERS}
        return {name: np.array(value[...]) for name, value in values.items() if value is not None}

    def load_params(self, params: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Take parameters from NumPy arrays. Raises TypeError, ValueError unless names and shapes are exactly ours."""
        own = self.params()
        arguments.check_params(self.NAME, params, {name: value.shape for name, value in own.items()})
        taken = {name: arguments.parameter(self.NAME, name, params[name], value.dtype) for name, value in own.items()}
        for name, value in taken.items():  # all of them, or none
            getattr(self, name)[...] = jnp.array(value)
