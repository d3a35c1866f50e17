"""Files under attack: nothing that was there is lost, and what cannot be read is said in one sentence."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tokenmerge import ViTConfig, get_merger, get_vit
from tokenmerge.files import check_writable, replacing, write_text
from tokenmerge.params import load_params, save_params

BACKENDS = ("numpy", "torch", "jax", "spec")
SMALL: dict[str, Any] = {"image_size": 8, "patch_size": 4, "dim": 8, "depth": 1, "heads": 2, "num_classes": 3}


def patch_merger(backend: str) -> Any:
    return get_merger("patch_merger", backend=backend, dim=4, num_tokens_out=2)


BAD = {
    "text": np.array(list("abcd")),
    "integers": np.arange(4),
    "complex": np.ones(4, complex),
    "dates": np.zeros(4, "datetime64[s]"),
    "list": [1.0, 2.0, 3.0, 4.0],
    "None": None,
    "masked": np.ma.masked_array(np.ones(4), mask=[0, 1, 0, 0]),
    "objects": np.array([None] * 4),
    "shape": np.ones(5),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("backend", BACKENDS)
def test_parameters_are_taken_all_or_none(backend: str, bad: str) -> None:
    merger = patch_merger(backend)
    before = merger.params()
    with pytest.raises((TypeError, ValueError), match=r"^patch_merger: `bias` must"):
        merger.load_params({name: value + 1 for name, value in before.items()} | {"bias": BAD[bad]})
    for name, value in merger.params().items():
        np.testing.assert_array_equal(value, before[name])
    network = get_vit(ViTConfig(**SMALL), backend=backend)
    before = network.params()
    wrong = np.ones(4) if bad == "shape" else BAD[bad]
    with pytest.raises((TypeError, ValueError), match=r"^vit: .*head.bias"):
        network.load_params({name: value + 1 for name, value in before.items()} | {"head.bias": wrong})
    for name, value in network.params().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("backend", ("numpy", "torch", "jax"))
def test_numbers_that_do_not_fit_are_refused(backend: str) -> None:
    merger = get_merger("ltm", backend=backend, dim=2, compression_ratio=0.5)
    with pytest.raises(ValueError, match=r"^ltm: `weight` must fit into float32, got 1e\+300"):
        merger.load_params({"weight": np.array([1.0, 1e300])})
    with pytest.raises(ValueError, match=r"^ltm: `params` must hold exactly 'weight', got "):
        merger.load_params({"weight": np.ones(2), 3: np.ones(2)})
    merger.load_params({"weight": np.array([np.inf, 1e30])})


BF16 = """
import sys, numpy as np, struct, json
header = json.dumps({"weight": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
open(sys.argv[1], "wb").write(struct.pack("<Q", len(header)) + header + b"\\x80\\x3f\\x00\\x40")
if sys.argv[3] == "with": import ml_dtypes
from tokenmerge import get_merger
from tokenmerge.params import load_params
merger = get_merger("ltm", backend=sys.argv[2], dim=2, compression_ratio=0.5)
load_params(merger, sys.argv[1])
assert merger.params()["weight"].tolist() == [1.0, 2.0]
"""


@pytest.mark.parametrize("ml_dtypes", ["with", "without"])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_bfloat16_is_read_everywhere(tmp_path: Path, backend: str, ml_dtypes: str) -> None:
    subprocess.run([sys.executable, "-c", BF16, str(tmp_path / "w"), backend, ml_dtypes], check=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_networks_take_bfloat16_of_numpy(backend: str) -> None:
    kind = pytest.importorskip("ml_dtypes").bfloat16
    network = get_vit(ViTConfig(**SMALL), backend=backend)
    network.load_params({name: value.astype(kind) for name, value in network.params().items()})


@pytest.mark.parametrize("data", [b"", b"x", b"\x80\x04K\x01.", b"\xff" * 64, b"{" * 100])
def test_what_is_no_file_of_parameters(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w").write_bytes(data)
    for path in (tmp_path / "w", tmp_path, tmp_path / "nothing", Path(os.devnull)):
        with pytest.raises(
            ValueError, match=r"^load_params: `path` must be a safetensors file of NumPy's dtypes, got '.*'"
        ):
            load_params(patch_merger("numpy"), path)


def test_the_file_and_the_entry_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"weight": np.zeros(2, np.int32)}, path)
    merger = get_merger("ltm", dim=2, compression_ratio=0.5)
    with pytest.raises(TypeError, match=r"ltm: `weight` must be floating point, got int32 \(in '.*w.safetensors'\)"):
        load_params(merger, path)


def test_a_link_stays_a_link_and_a_mode_a_mode(tmp_path: Path) -> None:
    real, link, umask = tmp_path / "real", tmp_path / "link", os.umask(0o022)
    try:
        save_params(patch_merger("numpy"), real)
        assert real.stat().st_mode & 0o777 == 0o644
        real.chmod(0o640)
        link.symlink_to(real)
        save_params(patch_merger("numpy"), link)
    finally:
        os.umask(umask)
    assert link.is_symlink() and real.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]
    for wrong in (Path(os.devnull), tmp_path, tmp_path / "no" / "file"):
        with pytest.raises(OSError, match=r"^save_params: `path` must be a file that can be written, got "):
            save_params(patch_merger("numpy"), wrong)
    assert not Path(os.devnull).is_file()


def test_a_full_disk_and_an_error_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text("test", "out", path, "old")

    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "import sys; from tokenmerge.files import write_text\n"
        "write_text('test', 'out', sys.argv[1], 'x' * 10**6)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], check=False, capture_output=True, text=True)
    assert "test: `out` must be a file that can be written" in run.stderr and "File too large" in run.stderr
    with pytest.raises(KeyboardInterrupt), replacing("test", "out", path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys
from tokenmerge.files import replacing
with replacing("test", "out", sys.argv[1]) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_who_is_killed_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode < 0
    assert path.read_text() == "old"


def test_what_was_trained_is_kept_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenmerge.digits import command

    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    kept = command._save(Path("/proc/none/digits.safetensors"), {"weight": np.ones(2)})
    assert kept.parent == tmp_path / "folder"
    with pytest.raises(OSError, match=r"^train: `out` must be a file that can be written, got '/proc/"):
        check_writable("train", "out", "/proc/digits.safetensors")


GREY = np.linspace(0, 1, 64).reshape(8, 8)


@pytest.mark.parametrize("kind", ["16 bits", "32 bits", "float"])
def test_pictures_of_many_bits_keep_their_greys(tmp_path: Path, kind: str) -> None:
    image = pytest.importorskip("PIL.Image")
    from tokenmerge.pictures.photo import load_photo

    array = {
        "16 bits": (GREY * 65535).astype("u2"),
        "32 bits": (GREY * (2**31 - 1)).astype("i4"),
        "float": GREY.astype("f4"),
    }
    path = tmp_path / ("a.png" if kind == "16 bits" else "a.tiff")
    image.fromarray(array[kind]).save(path)
    got = load_photo(path, 8)[:, :, 0]
    assert np.abs(np.round((got - GREY) * 100)).max() <= 1  # hundredths of the range


def test_pictures_have_a_bound(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    from tokenmerge.pictures.photo import load_photo

    image.new("1", (13000, 13000)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="demo: `image` must have at most 50,000,000 pixels, got 13000 x 13000 pixels"):
        load_photo(tmp_path / "a.png", 8)


@pytest.mark.parametrize(
    "error", [TypeError, KeyError, ZeroDivisionError, EOFError, AttributeError, MemoryError, struct.error]
)
def test_a_picture_whose_reader_stumbles_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """A TIFF whose width is a fraction is a TypeError of Pillow's, found by the run guided by coverage."""
    image = pytest.importorskip("PIL.Image")
    from tokenmerge.pictures.photo import load_photo

    def stumble(path: object) -> None:
        raise error("somewhere inside")

    (tmp_path / "a.png").write_bytes(b"a picture")
    monkeypatch.setattr(image, "open", stumble)
    with pytest.raises(ValueError, match=r"^demo: `image` must be a picture that Pillow can read, got '.*a\.png'$"):
        load_photo(tmp_path / "a.png", 8)
