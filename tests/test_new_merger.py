"""What a new merger costs: three modules and a line in each of three tables, and it is complete in NumPy.

A copy of the tree gets the toy merger of `tests/stride`; the suite says what is missing until it is there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STRIDE = Path(__file__).parent / "stride"
MODULES = {
    "spec.py": "spec/stride.py",
    "numpy.py": "backends/numpy/stride.py",
    "conformance.py": "conformance/stride.py",
}
# file -> what is put in front of a line of it: the import, and the line of the table
EDITS = {
    "spec/mergers.py": [
        ("from tokenmerge.spec.shared.description", "from tokenmerge.spec import stride\n"),
        ('    "tome": ', '    "stride": stride.DESCRIPTION,\n'),
    ],
    "backends/numpy/mergers.py": [
        ("from tokenmerge.backends.numpy.tome", "from tokenmerge.backends.numpy.stride import Stride\n"),
        ("MERGERS: ", None),
    ],
    "conformance/mergers.py": [
        ("from tokenmerge.conformance.proof", "from tokenmerge.conformance import stride\n"),
        ('    "tome": ', '    "stride": stride.PROOF,\n'),
    ],
}
MAIN = "from tokenmerge.cli import main; main()"
COMMAND = ("-c", MAIN, "conformance", "--backend", "numpy", "--level", "quick", "--dtype", "float32")


def copy_of_the_tree(folder: Path) -> Path:
    for part in ("spec", "backends", "conformance"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    source = folder / "src" / "tokenmerge"
    shutil.copytree(
        ROOT / "src" / "tokenmerge",
        source,
        symlinks=True,
        ignore=shutil.ignore_patterns("__pycache__", "spec", "backends", "conformance"),
    )
    for part in ("spec", "backends", "conformance"):
        (source / part).symlink_to(Path("..", "..", part))
    return folder


def add(tree: Path, *steps: str) -> None:
    """The modules and edits of some wings."""
    for name, target in MODULES.items():
        if target.partition("/")[0] in steps:
            shutil.copy(STRIDE / name, tree / target)
    for name, edits in EDITS.items():
        if name.partition("/")[0] not in steps:
            continue
        text = (tree / name).read_text()
        for before, line in edits:
            assert text.count(before) == 1, (name, before)
            text = (
                text.replace("(ToMe, ATS, PatchMerger, LTM)", "(ToMe, ATS, PatchMerger, LTM, Stride)")
                if line is None
                else text.replace(before, line + before)
            )
        (tree / name).write_text(text)


def run(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """`python -m` or `python -c` with the copy in front of everything else."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "COLUMNS": "200"}
    return subprocess.run([sys.executable, *command], cwd=tree, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_the_tree(tmp_path_factory.mktemp("tree"))


def test_few_files_are_new_or_changed() -> None:
    assert len(MODULES) == len(EDITS) == 3


def test_red_tells_what_is_missing_until_it_is_there(tree: Path) -> None:
    known = (tree / "spec/mergers.py").read_text()
    add(tree, "spec", "backends")
    assert '"stride"' not in known

    unseen = run(tree, *COMMAND)
    assert unseen.returncode == 1, unseen.stdout[-2000:] + unseen.stderr[-2000:]
    assert "not looked at: stride" in unseen.stdout

    add(tree, "conformance")
    proved = run(tree, *COMMAND, "--merger", "stride")
    assert proved.returncode == 0, proved.stdout[-3000:] + proved.stderr[-2000:]
    assert "STRIDE-1" in proved.stdout

    broken = tree / "backends/numpy/stride.py"
    right = broken.read_text()
    broken.write_text(right.replace("np.arange(protected, n + 1, 2)", "np.arange(protected + 1, n + 2, 2)"))
    refuted = run(tree, *COMMAND, "--merger", "stride")
    broken.write_text(right)
    assert refuted.returncode == 1
    assert "STRIDE-1" in refuted.stdout


def test_it_is_complete_in_numpy(tree: Path) -> None:
    program = """
import numpy as np
from tokenmerge import ViTConfig, get_merger, get_vit
from tokenmerge.spec.mergers import MERGERS
from tokenmerge.spec.shared.flops import flops
x = np.random.default_rng(0).standard_normal((2, 9, 4))
for backend in ("numpy", "spec"):
    print(backend, get_merger("stride", backend=backend, protected=1)(x).tokens.shape)
small = dict(image_size=16, patch_size=4, dim=8, depth=2, heads=2, num_classes=3)
config = ViTConfig(**small, merging=MERGERS["stride"].merging())
images = np.ones((1, 16, 16, 3), np.float32)
one, two = (get_vit(config, backend=backend)(images) for backend in ("numpy", "spec"))
same = all(np.array_equal(a.indices, b.indices) for a, b in zip(one.plans, two.plans, strict=True))
print(one.tokens.shape, same, flops(config).total < flops(ViTConfig(**small)).total)
"""
    done = run(tree, "-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:3] == ["numpy (2, 5, 4)", "spec (2, 5, 4)", "(1, 5, 8) True True"]
