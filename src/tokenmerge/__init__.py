"""Token merging for transformers: PatchMerger, ATS, ToMe and LTM, the same in NumPy, PyTorch and JAX.

>>> import numpy as np
>>> from tokenmerge import get_merger
>>> merger = get_merger("tome", r=4, protected=1)
>>> out = merger(np.random.default_rng(0).standard_normal((2, 17, 8)))
>>> out.tokens.shape
(2, 13, 8)
"""

from tokenmerge.backends import BackendInfo, available_backends, get_merger, get_vit, register_backend
from tokenmerge.params import load_params, save_params
from tokenmerge.spec.merged import Merged
from tokenmerge.spec.schedule import merge_schedule
from tokenmerge.spec.vit_config import AtsMerging, LtmMerging, PatchMergerMerging, ToMeMerging, ViTConfig

__all__ = [
    "AtsMerging",
    "BackendInfo",
    "LtmMerging",
    "Merged",
    "PatchMergerMerging",
    "ToMeMerging",
    "ViTConfig",
    "available_backends",
    "get_merger",
    "get_vit",
    "load_params",
    "merge_schedule",
    "register_backend",
    "save_params",
]
