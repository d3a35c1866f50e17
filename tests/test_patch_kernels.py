"""Patched models with the Triton kernels, in processes of their own like `test_torch_kernels.py`."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from test_torch_kernels import cases, needs_triton, shares

NEEDED = {"triton_patch_cases.py": ("timm",), "triton_transformers_cases.py": ("timm", "transformers")}


@needs_triton
@shares(patch_cases=4, transformers_cases=1)
def test_patched_models_under_the_interpreter(file: str, share: str) -> None:
    for library in NEEDED[file]:
        pytest.importorskip(library)
    assert " passed" in cases(file, share)


@pytest.mark.gpu
@pytest.mark.parametrize("file", NEEDED)
def test_patched_models_on_a_gpu(file: str) -> None:
    for library in NEEDED[file]:
        pytest.importorskip(library)
    assert " passed" in cases(file, interpret=False, TRITON_CASES_DEVICE="cuda")
