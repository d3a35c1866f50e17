"""What the four merger objects share: parameters by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.merged import Merged

Tensor = torch.Tensor
NumpyArray = np.ndarray[Any, Any]


torch.serialization.add_safe_globals([Merged])


class Merger(torch.nn.Module):
    """Base of the mergers; `PARAMETERS` are the attributes that are learned, `OPTIONS` the others."""

    NAME: str
    PARAMETERS: tuple[str, ...] = ()
    OPTIONS: tuple[str, ...] = ()

    def params(self) -> dict[str, NumpyArray]:
        """The learned parameters by name, as NumPy copies (bfloat16 as float32); the same names in every backend."""
        return {name: as_numpy(value).copy() for name, value in self._learned().items()}

    def load_params(self, params: Mapping[str, NumpyArray]) -> None:
        """Take parameters from NumPy arrays. Raises TypeError, ValueError unless names and shapes are exactly ours."""
        own = self._learned()
        arguments.check_params(self.NAME, params, {name: tuple(value.shape) for name, value in own.items()})
        taken = {name: as_tensor(self.NAME, name, params[name], value) for name, value in own.items()}
        with torch.no_grad():
            for name, value in own.items():  # all of them, or none
                value.copy_(taken[name])

    def extra_repr(self) -> str:
        """The options, for `print`."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.OPTIONS)

    def _learned(self) -> dict[str, Tensor]:
        values = {name: getattr(self, name) for name in self.PARAMETERS}
        return {name: value for name, value in values.items() if value is not None}


def as_tensor(owner: str, name: str, value: Any, like: Tensor) -> Tensor:
    """A parameter, an array of any framework, as a tensor in the dtype of another one.

    Raises:
        TypeError, ValueError: not an array of floating-point numbers that fit.
    """
    given = arguments.parameter(owner, name, value)
    # float64 holds every dtype, bfloat16 of ml_dtypes too
    wide = torch.from_numpy(given.astype(np.float64))
    narrow = wide.to(like.dtype)
    lost = wide.isfinite() & ~narrow.isfinite()
    if lost.any():
        kind = str(like.dtype).rpartition(".")[2]
        raise ValueError(f"{owner}: `{name}` must fit into {kind}, got {wide[lost][0].item()!r}")
    return narrow


def as_numpy(tensor: Tensor) -> NumpyArray:
    """The values of a tensor as a NumPy array, which has no bfloat16: that becomes float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
