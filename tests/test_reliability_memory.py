"""Long sequences: what ToMe needs beside its inputs and results stays small, in every backend."""

from __future__ import annotations

import subprocess
import sys

import pytest

N, D = 65_536, 32
MEASURE = """
import resource, sys
import numpy as np
from tokenmerge import get_merger
from tokenmerge.backends import get_backend

n, d, backend = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
module, merger = get_backend(backend), get_merger("tome", backend=backend, r=int(sys.argv[1]) // 4)
x = module.from_numpy(np.random.default_rng(0).standard_normal((1, n, d)).astype("f4"))
small = module.from_numpy(np.random.default_rng(0).standard_normal((1, 4096, d)).astype("f4"))
module.to_numpy(merger(small).tokens)  # what is compiled and allocated once
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
module.to_numpy(merger(x).tokens)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of the resident set is in other units elsewhere")
@pytest.mark.parametrize("backend", ["numpy", "torch", "jax"])
def test_peak_memory_of_a_long_sequence(backend: str) -> None:
    pytest.importorskip(backend)
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(N), str(D), backend], capture_output=True, text=True, check=True
    )
    merged = N - N // 4
    inputs, results = 4 * N * D, 4 * merged * D + 4 * merged + 8 * N  # tokens; tokens, sizes and slots
    assert int(run.stdout) < 3 * (inputs + results)
