"""In which precision the work is done (docs/plan.md)."""

from __future__ import annotations

from typing import Any

import numpy as np


def working_dtype(*dtypes: Any) -> np.dtype[Any]:
    """float32 for half precision, the input's own precision for float32 and float64.

    Half precision is for storing tokens; bfloat16 cannot count past 256 and would decide ties by accident.

    >>> working_dtype(np.float16), working_dtype(np.float64)
    (dtype('float32'), dtype('float64'))
    """
    return np.result_type(np.float32, *dtypes)
