"""The mergers of this backend. The one table of this wing."""

from __future__ import annotations

from typing import Any

from tokenmerge.backends.torch.ats import ATS
from tokenmerge.backends.torch.ltm import LTM
from tokenmerge.backends.torch.patch_merger import PatchMerger
from tokenmerge.backends.torch.tome import ToMe

MERGERS: dict[str, Any] = {made.NAME: made for made in (ToMe, ATS, PatchMerger, LTM)}
