"""The command line: what it prints, how it ends, and what it says about mistakes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import tokenmerge.backends
from tokenmerge.backends import BackendInfo
from tokenmerge.cli import OneSentence, app

SMALL = ["--size", "64", "--patch-size", "8", "--backend", "numpy"]


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_one_sentence(result: Any, sentence: str) -> None:
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.strip() == sentence


def test_help_lists_the_commands() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    assert "demo" in result.stdout and "backends" in result.stdout


def test_backends_are_listed() -> None:
    result = invoke("backends")
    assert result.exit_code == 0
    assert "numpy" in result.stdout and "float16, float32, float64" in result.stdout


def test_how_to_install_a_missing_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = 'backend "jax" needs flax: pip install jax flax'
    missing = {"jax": BackendInfo("jax", available=False, install=sentence)}
    monkeypatch.setattr(tokenmerge.backends, "available_backends", lambda: missing)
    result = invoke("backends")
    assert result.exit_code == 0
    assert "not installed" in result.stdout and sentence in result.stdout


def test_demo_prints_a_table_and_writes_a_picture(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    out = tmp_path / "demo.png"
    result = invoke("demo", "--out", out, *SMALL)
    assert result.exit_code == 0, result.output
    for merger in ("ToMe", "ATS", "PatchMerger", "LTM"):
        assert merger in result.stdout
    assert "65 → " in result.stdout and str(out) in result.stdout
    with image.open(out) as picture:
        assert min(picture.size) > 800


def test_demo_takes_a_photograph(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (90, 50), "black").save(tmp_path / "black.png")  # every token is like every other
    result = invoke("demo", "--image", tmp_path / "black.png", "--out", tmp_path / "demo.png", *SMALL)
    assert result.exit_code == 0, result.output


def test_demo_fails_when_a_backend_disagrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "__init__.py").touch()
    (tmp_path / "wrong" / "backend.py").write_text(WRONG)
    monkeypatch.syspath_prepend(tmp_path)
    result = invoke("demo", "--out", tmp_path / "demo.png", *SMALL, "--backend", "wrong.backend")
    assert result.exit_code == 1, result.output
    assert result.stdout.count("wrong.backend") == 5
    assert result.stderr.strip() == "demo: wrong.backend disagrees with the spec on ATS"


WRONG = """
from tokenmerge.backends.numpy import *
from tokenmerge.backends.numpy import MERGERS as RIGHT, ATS

class Backwards(ATS):
    def __call__(self, x, **arguments):
        merged = super().__call__(x, **arguments)
        return merged._replace(tokens=merged.tokens[:, ::-1])

MERGERS = {**RIGHT, "ats": Backwards}
"""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--image", "none.jpg"], "demo: `image` must be a file, got 'none.jpg', which is not there"),
        (["--image", "."], "demo: `image` must be a file, got '.', which is a folder"),
        (["--image", "text.png"], "demo: `image` must be a picture that Pillow can read, got 'text.png'"),
        (["--out", "none/demo.png"], "demo: `out` must be a file in a folder that exists, got 'none/demo.png'"),
        (["--out", "folder.png"], "demo: `out` must be a file in a folder that exists, got 'folder.png'"),
        (["--size", "60"], "demo: `size` must be a multiple of the patch size 8, got 60"),
        (["--patch-size", "0"], "demo: `patch-size` must be an integer >= 1, got 0"),
        (["--size", "-64"], "demo: `size` must be 4 to 64 patches, 32 to 512 pixels, got -64"),
        (["--size", "1024"], "demo: `size` must be 4 to 64 patches, 32 to 512 pixels, got 1024"),
        (
            ["--backend", "nunpy"],
            "get_backend: `backend` must be one of 'jax', 'numpy', 'spec', 'torch' or a module, got 'nunpy' "
            "(did you mean 'numpy'?)",
        ),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("no picture")
    Path("folder.png").mkdir()
    before = set(os.listdir())
    assert_one_sentence(invoke("demo", *SMALL, *arguments), sentence)
    assert set(os.listdir()) == before


@pytest.mark.parametrize("out", ["demo", "demo.txt"])
def test_an_ending_that_is_no_picture(out: str) -> None:
    pytest.importorskip("matplotlib")
    result = invoke("demo", *SMALL, "--out", out)
    assert result.exit_code == 2
    assert result.stderr.startswith("demo: `out` must end in one of ") and result.stderr.endswith(f"got '{out}'\n")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    out = tmp_path / "demo.png"
    assert_one_sentence(
        invoke("demo", *SMALL, "--out", out), f"demo: `out` must be a file that can be written, got {str(out)!r}"
    )


def test_how_to_install_what_the_demo_needs() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None; sys.argv[1:] = ['demo']; from tokenmerge.cli import main; main()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr == "demo needs matplotlib and pillow: pip install matplotlib pillow\n"


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    other = typer.Typer(cls=OneSentence)

    @other.callback()
    def options() -> None: ...

    @other.command()
    def crash() -> None:
        raise ValueError("first line\nsecond line")

    @other.command()
    def empty() -> None:
        raise RuntimeError("of no use to a user")

    for command in ("crash", "empty"):
        assert isinstance(CliRunner().invoke(other, [command]).exception, (ValueError, RuntimeError))


def test_no_option_is_named_like_its_placeholder() -> None:
    """Some releases of typer (0.27.2 with click 8.5.0, for one) then know it in capitals only."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    options = [each for command in commands.values() for each in command.params if each.param_type_name == "option"]
    assert options and not [each.name for each in options if each.metavar == each.name.upper()]
