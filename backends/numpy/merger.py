"""What the four merger objects share: parameters by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import numpy as np

from tokenmerge.spec.shared import arguments

Array = np.ndarray[Any, Any]


class Merger:
    """Base of the mergers; `PARAMETERS` are the attributes that are learned.

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

    def __repr__(self) -> str:
        options = {name: getattr(self, name) for name in signature(type(self)).parameters if hasattr(self, name)}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in options.items())})"

    def params(self) -> dict[str, Array]:
        """The learned parameters by name, as copies; the names are the same in every backend."""
        values = {name: getattr(self, name) for name in self.PARAMETERS}
        return {name: value.copy() for name, value in values.items() if value is not None}

    def load_params(self, params: Mapping[str, Array]) -> None:
        """Take parameters from NumPy arrays. Raises TypeError, ValueError unless names and shapes are exactly ours."""
        own = self.params()
        arguments.check_params(self.NAME, params, {name: value.shape for name, value in own.items()})
        taken = {name: arguments.parameter(self.NAME, name, params[name], value.dtype) for name, value in own.items()}
        for name, value in taken.items():  # all of them, or none
            setattr(self, name, value)
