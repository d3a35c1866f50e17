"""Every merger that the suite can prove. The one table of this wing.

A merger of a backend that is not here is named in the report as not looked at.
"""

from __future__ import annotations

from tokenmerge.conformance import ats, ltm, patch_merger, tome
from tokenmerge.conformance.proof import Proof

MERGERS: dict[str, Proof] = {
    "tome": tome.PROOF,
    "ats": ats.PROOF,
    "patch_merger": patch_merger.PROOF,
    "ltm": ltm.PROOF,
}
