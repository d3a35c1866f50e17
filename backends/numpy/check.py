"""The checker of this backend: plain NumPy arrays, whose entries can always be looked at."""

from __future__ import annotations

import numpy as np

from tokenmerge.spec.shared.calls import Calls

check = Calls(np.ndarray)
