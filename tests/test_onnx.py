"""The PyTorch mergers as ONNX models in ONNX Runtime (docs/examples/onnx_backend.py): deployed, they still agree."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from tokenmerge.conformance.case import Case, run_case
from tokenmerge.conformance.checks import CHECKS
from tokenmerge.conformance.judge import judge
from tokenmerge.conformance.runner import run_check
from tokenmerge.conformance.subject import Subject

DOCS = Path(__file__).parents[1] / "docs"
OPTIONS: dict[str, dict[str, Any]] = {
    "tome": {"protected": 1, "r": 3},
    "ats": {"max_tokens": 4},
    "patch_merger": {"dim": 4, "num_tokens_out": 3},
    "ltm": {"compression_ratio": 0.5, "dim": 4},
}
# An export takes seconds and every example of the suite may need one: in a run for everybody, what says most.
# The whole suite: `PYTHONPATH=docs tokenmerge conformance --backend examples.onnx_backend --level quick`.
CHECKED = ["tome-exact", "ats-exact", "patch_merger-generic", "ltm-generic"]
CHECKED += [f"{merger}-{kind}" for merger in OPTIONS for kind in ("errors", "load")]


@pytest.fixture(scope="module")
def backend() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        return importlib.import_module("examples.onnx_backend")


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKED)
def test_the_suite_finds_nothing(check: str, backend: ModuleType) -> None:
    result = run_check(Subject("examples.onnx_backend", backend, "float32"), CHECKS[check], "quick")
    assert result.status == "passed", result.message


@pytest.mark.parametrize("merger", OPTIONS)
def test_one_model_of_standard_operators_serves_every_batch_size(merger: str, backend: ModuleType) -> None:
    params = backend.MERGERS[merger](**OPTIONS[merger]).params()
    rng = np.random.default_rng(0)
    for batch in (1, 2, 5):
        x = rng.standard_normal((batch, 9, 4), dtype=np.float32)
        inputs = {"x": x, "mask": rng.random((batch, 9)) < 0.8}
        if merger == "ats":
            inputs |= {"attn": rng.random((batch, 2, 9), dtype=np.float32), "value": np.stack([x, x], axis=1)}
        case = Case(merger, OPTIONS[merger], inputs, params)
        verdict = judge(case, run_case(case, backend, "float32"))
        assert verdict.certified, str(verdict)

    fixed = [(name, value.shape, "float32") for name, value in params.items()]
    shapes = (*fixed, *((name, (None, *array.shape[1:]), array.dtype.name) for name, array in inputs.items()))
    exports = backend.model.cache_info().misses
    model = onnx.load_model_from_string(backend.model(merger, tuple(OPTIONS[merger].items()), shapes))
    assert backend.model.cache_info().misses == exports  # it was there: the one that all three batches used
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
