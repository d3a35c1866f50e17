"""Every door that writes a file: the old one or the new one, never none, whatever happens in between."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenmerge import files, get_merger
from tokenmerge.params import save_params

ROOT = Path(__file__).parents[1]


def _picture(path: Path) -> None:
    panels = pytest.importorskip("tokenmerge.pictures.panels")
    panels.Panels(1, columns=1).save(path)


def _export(path: Path) -> None:
    torch = pytest.importorskip("torch")
    from tokenmerge.deploy import formats
    from tokenmerge.deploy.write import export

    class Small(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.flatten(1)

    def written(self: Any, model: Any, example: Any, out: Path, **options: Any) -> int:
        out.write_bytes(b"new")
        return 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats.Format, "write", written)
        export(Small(), path, format="torch-export", image_shape=(1, 2, 2))


def _json_of_evaluate(path: Path) -> None:
    pytest.importorskip("torch")
    from tokenmerge.digits.report import write_json

    write_json([], path)


def _plot_of_evaluate(path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("torch")
    from tokenmerge.digits.evaluate import Row
    from tokenmerge.digits.report import plot

    values: dict[str, Any] = {"merger": "none", "rate": "", "backend": "numpy", "trained": "off the shelf"}
    numbers = dict.fromkeys(("tokens", "gflops", "accuracy", "images_per_second", "differ", "near_ties"), 1)
    plot([Row(**{name: (values | numbers)[name] for name in Row.__annotations__})], path)


def _plot_of_bench(path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tokenmerge.bench.plot import plot_growth

    plot_growth({"tokens": {"numpy": [(1, 1, 1), (2, 2, 2)]}}, path)


def _text(owner: str) -> Callable[[Path], None]:
    return lambda path: files.write_text(owner, "json", path, "new")


def _report(path: Path) -> None:
    from tokenmerge.conformance.report.files import write

    write(path, "new")


def _vectors(path: Path) -> None:
    from tokenmerge.conformance.vectors.files import write

    write(path.parent, {"schema": 1}, {path.name: {"a": np.zeros(2)}} if path.name != "index.json" else {})


def _trained(path: Path) -> None:
    files.write_tensors("train", "out", path, {"weight": np.ones(2)})


# what writes -> the file's name and a call that writes it
WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "demo and visualize": ("a.png", _picture),
    "train": ("a.safetensors", _trained),
    "evaluate --json": ("a.json", _json_of_evaluate),
    "evaluate --plot": ("a.png", _plot_of_evaluate),
    "bench --json": ("a.json", _text("bench")),
    "bench --plot": ("a.svg", _plot_of_bench),
    "conformance --json and --html": ("a.html", _report),
    "vectors": ("a.safetensors", _vectors),
    "vectors, the index": ("index.json", _vectors),
    "export": ("a.pt2", _export),
    "save_params": ("a.safetensors", lambda path: save_params(get_merger("ltm", dim=2, compression_ratio=0.5), path)),
}


@pytest.fixture(params=WRITERS)
def door(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Callable[[Path], None]]:
    """A file that is there already, and a call that replaces it."""
    name, call = WRITERS[request.param]
    (tmp_path / name).write_bytes(b"old")
    return tmp_path / name, call


def _fails(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, number: int) -> None:
    def refused(*arguments: Any, **options: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(where, name, refused)


def test_a_full_disk_leaves_the_old_file(
    door: tuple[Path, Callable[[Path], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, call = door
    _fails(monkeypatch, files.os, "fsync", errno.ENOSPC)
    with pytest.raises(OSError, match=r"^\w+: `[\w.]+` must be a file that can be written, got '.*', No space left"):
        call(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]


def test_a_folder_that_is_read_only_is_told_before_anything_is_written(
    door: tuple[Path, Callable[[Path], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, call = door
    _fails(monkeypatch, files.tempfile, "TemporaryFile", errno.EROFS)
    monkeypatch.setattr(Path, "replace", lambda *paths: pytest.fail("written all the same"))
    with pytest.raises(OSError, match=r"^\w+: `[\w.]+` must be a file that can be written, got '.*', Read-only file"):
        call(path)
    assert path.read_bytes() == b"old"


def test_until_the_new_one_is_complete_the_old_one_is_there_and_a_link_stays_a_link(
    door: tuple[Path, Callable[[Path], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is killed at any time before the one step of the file system leaves the old file; after it the new one."""
    path, call = door
    real, seen, replaced = path.parent / f"real{path.suffix}", [], Path.replace
    path.rename(real)
    real.chmod(0o640)
    path.symlink_to(real)

    def replace(part: Path, target: Path) -> Path:
        if target == real:
            seen.append(real.read_bytes())
        return replaced(part, target)

    monkeypatch.setattr(Path, "replace", replace)
    call(path)
    assert seen == [b"old"], "the file was not written beside its place and put there in one step"
    assert path.is_symlink()
    assert real.read_bytes() not in (b"old", b"")
    assert real.stat().st_mode & 0o777 == 0o640


IN_PLACE = re.compile(r"\.write_(?:text|bytes)\(|\.savefig\(|\bopen\([^)]*[\"'][wax]b?[\"']|json\.dump\(|save_file\(")
# these write into a file that `replacing` or `export` puts in its place, or into a stream
ALLOWED = {
    "src/tokenmerge/files.py",
    "src/tokenmerge/pictures/panels.py",
    "src/tokenmerge/digits/report.py",
    "src/tokenmerge/bench/plot.py",
    "src/tokenmerge/training/report.py",
    "src/tokenmerge/deploy/formats/executorch.py",
    "src/tokenmerge/deploy/formats/stablehlo.py",
    "conformance/report/files.py",
}


def test_nothing_else_writes_a_file() -> None:
    found = {
        str(path.relative_to(ROOT))
        for folder in ("src/tokenmerge", "conformance")
        for path in (ROOT / folder).rglob("*.py")
        if IN_PLACE.search(path.read_text())
    }
    assert {each for each in found if not each.startswith("src/tokenmerge/conformance/")} == ALLOWED
