"""A merger shows what it was made with, in the spec and in NumPy as in the frameworks."""

from __future__ import annotations

import pytest

from tokenmerge import get_merger

MADE = {
    "tome": (dict(r=3, protected=1), "ToMe(r=3, protected=1, order='grouped', matching='bipartite', k=None)"),
    "ats": (dict(max_tokens=4), "ATS(max_tokens=4, score='per_head', sampling='inverse_transform')"),
    "patch_merger": (dict(dim=4, num_tokens_out=2), "PatchMerger(dim=4, num_tokens_out=2, "),
    "ltm": (
        dict(dim=4, compression_ratio=0.5),
        "LTM(dim=4, compression_ratio=0.5, protected=0, prior_smoothing=0.1)",
    ),
}


@pytest.mark.parametrize("backend", ["spec", "numpy"])
@pytest.mark.parametrize("name", MADE)
def test_a_merger_shows_its_options(name: str, backend: str) -> None:
    options, text = MADE[name]
    assert repr(get_merger(name, backend=backend, **options)).startswith(text)
