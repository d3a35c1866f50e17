"""Every merger there is, described (`spec/shared/description.py`). The one table of this wing.

Whoever adds a merger adds its line here; options of the registry and the command line, the steps of a network, its
parameters and its multiply-adds are looked up.
"""

from __future__ import annotations

from tokenmerge.spec import ats, ltm, patch_merger, tome
from tokenmerge.spec.shared.description import Description

MERGERS: dict[str, Description] = {
    "tome": tome.DESCRIPTION,
    "ats": ats.DESCRIPTION,
    "patch_merger": patch_merger.DESCRIPTION,
    "ltm": ltm.DESCRIPTION,
}
