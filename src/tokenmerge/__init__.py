"""Token merging for transformers: PatchMerger, ATS, ToMe and LTM, the same in NumPy, PyTorch and JAX.

>>> import numpy as np
>>> from tokenmerge import get_merger
>>> merger = get_merger("tome", r=4, protected=1)
>>> out = merger(np.random.default_rng(0).standard_normal((2, 17, 8)))
>>> out.tokens.shape
(2, 13, 8)
"""

from importlib.metadata import PackageNotFoundError, version

from tokenmerge.backends import BackendInfo, available_backends, get_merger, get_vit, register_backend
from tokenmerge.exporting import export
from tokenmerge.params import load_params, save_params
from tokenmerge.patching import patch
from tokenmerge.spec.ats import ATSMerging
from tokenmerge.spec.ltm import LTMMerging
from tokenmerge.spec.patch_merger import PatchMergerMerging
from tokenmerge.spec.shared.merged import Merged
from tokenmerge.spec.shared.protocols import Merger, Plan
from tokenmerge.spec.shared.schedule import merge_schedule
from tokenmerge.spec.shared.vit_config import ViTConfig
from tokenmerge.spec.tome import ToMeMerging

try:
    __version__ = version("tokenmerge")
except PackageNotFoundError:  # a checkout on PYTHONPATH that was never installed
    __version__ = "unknown"

__all__ = [
    "ATSMerging",
    "BackendInfo",
    "LTMMerging",
    "Merged",
    "Merger",
    "PatchMergerMerging",
    "Plan",
    "ToMeMerging",
    "ViTConfig",
    "__version__",
    "available_backends",
    "export",
    "get_merger",
    "get_vit",
    "load_params",
    "merge_schedule",
    "patch",
    "register_backend",
    "save_params",
]
