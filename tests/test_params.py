"""Parameters move between backends, in memory and on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tokenmerge import get_merger, load_params, save_params

BACKENDS = ("spec", "numpy", "torch", "jax")
MERGERS = {
    "tome": {"r": 2},
    "ats": {"max_tokens": 3},
    "patch_merger": {"dim": 4, "num_tokens_out": 2, "seed": 3},
    "ltm": {"dim": 4, "compression_ratio": 0.5},
}


@pytest.mark.parametrize("target", BACKENDS)
@pytest.mark.parametrize("source", BACKENDS)
@pytest.mark.parametrize("name", MERGERS)
def test_round_trip_through_a_file(name: str, source: str, target: str, tmp_path: Path) -> None:
    one, two = (get_merger(name, backend=backend, **MERGERS[name]) for backend in (source, target))
    one.load_params({key: np.full_like(value, 0.25) for key, value in one.params().items()})
    save_params(one, tmp_path / "merger.safetensors")
    load_params(two, tmp_path / "merger.safetensors")
    assert set(two.params()) == set(one.params())
    for value in two.params().values():
        np.testing.assert_array_equal(value, np.full_like(value, 0.25))


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_params_returns_is_a_copy(backend: str) -> None:
    merger = get_merger("ltm", backend=backend, **MERGERS["ltm"])
    merger.params()["weight"][:] = 7
    np.testing.assert_array_equal(merger.params()["weight"], np.zeros(4))


def test_a_file_with_other_names_is_refused(tmp_path: Path) -> None:
    save_params(get_merger("ltm", **MERGERS["ltm"]), tmp_path / "ltm.safetensors")
    with pytest.raises(ValueError, match="`params` must hold exactly 'bias', 'queries', 'scale', got 'weight'"):
        load_params(get_merger("patch_merger", **MERGERS["patch_merger"]), tmp_path / "ltm.safetensors")
