"""Many threads on the same objects, and writers that are killed: `python tools/fuzz/together.py`.

A call gives the bits that it gives alone, whoever else calls; a file is the old one or the new one, whoever is killed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from fuzz_run import Tally, main

from tokenmerge import get_merger
from tokenmerge.backends import get_backend

THREADS, CALLS = 16, 64
FILE = Path(tempfile.mkdtemp()) / "a.json"
OLD, NEW = "old" * 1000, "new" * 100_000
WRITER = f"""
import sys
from tokenmerge.files import write_text
print("ready", flush=True)
while True:
    for text in ("old" * 1000, "new" * 100_000):
        write_text("test", "out", {str(FILE)!r}, text)
"""


def shared(backend: str) -> list[tuple[Any, tuple[Any, ...]]]:
    """Mergers and their inputs, and what each gives alone."""
    module: Any = get_backend(backend)
    x = module.from_numpy(np.random.default_rng(0).standard_normal((2, 33, 8)).astype("f4"))
    attn, value = module.from_numpy(np.full((2, 2, 33), 1 / 33, "f4")), module.from_numpy(np.ones((2, 2, 33, 4), "f4"))
    calls = [
        (get_merger("tome", backend=backend, r=8), {}),
        (get_merger("ats", backend=backend, max_tokens=8), {"attn": attn, "value": value}),
        (get_merger("ltm", backend=backend, dim=8, compression_ratio=0.5), {}),
        (get_merger("patch_merger", backend=backend, dim=8, num_tokens_out=4), {}),
    ]
    return [
        (lambda merger=merger, given=given: arrays(module, merger(x, **given)), arrays(module, merger(x, **given)))
        for merger, given in calls
    ]


def arrays(module: Any, merged: Any) -> tuple[Any, ...]:
    return module.to_numpy(merged.tokens), module.to_numpy(merged.size)


SHARED = {backend: shared(backend) for backend in ("numpy", "torch", "jax")}


def one(generator: np.random.Generator, tally: Tally) -> None:
    """Calls from many threads; now and then a writer that is killed."""
    if generator.random() < 0.1:
        killed(generator, tally)
        return
    backend = str(generator.choice(sorted(SHARED)))
    chosen = [SHARED[backend][i] for i in generator.integers(0, 4, CALLS)]
    with ThreadPoolExecutor(THREADS) as pool:
        for (_, want), got in zip(chosen, pool.map(lambda call: call[0](), chosen), strict=True):
            equal = all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))
            tally.add("equal" if equal else "different", "" if equal else f"{backend}: a call among {THREADS} threads")


def killed(generator: np.random.Generator, tally: Tally) -> None:
    FILE.write_text(OLD)
    with subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(float(generator.uniform(0.01, 0.3)))
        process.send_signal(signal.SIGKILL)
    text = FILE.read_text()
    tally.add("whole" if text in (OLD, NEW) else "torn", "" if text in (OLD, NEW) else f"{len(text)} characters")


if __name__ == "__main__":
    sys.exit(main("together", ("equal", "different", "whole", "torn"), one))
