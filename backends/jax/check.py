"""The checker of this backend: when the entries of an array can be looked at."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from tokenmerge.spec.shared.calls import Calls


class ArrayCalls(Calls):
    """Checks of arrays of JAX or NumPy; under `jax.jit` they look at shapes alone."""

    source = jax.Array  # a key

    def odd(self, array: Any) -> str:
        if isinstance(array, jax.Array) and not isinstance(array, jax.core.Tracer) and array.is_deleted():
            return "an array that is deleted or was donated"
        return super().odd(array)

    def readable(self, array: Any) -> np.ndarray[Any, Any] | None:
        if isinstance(array, np.ndarray):
            return array
        if isinstance(array, jax.core.Tracer) or any(device.platform != "cpu" for device in array.devices()):
            return None
        return np.asarray(array)


check = ArrayCalls((jax.Array, np.ndarray))
