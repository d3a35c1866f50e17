"""Every option that names a file to write, as the command line declares them: wrong places, killed writers."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from typer.models import ArgumentInfo
from typer.testing import CliRunner

from tokenmerge import files
from tokenmerge.cli import app

ROOT = Path(__file__).parents[1]

# command and option -> the other arguments of a call, and the ending of the file
WRITES: dict[tuple[str, str], tuple[list[str], str]] = {
    ("demo", "--out"): (["--backend", "numpy"], ".png"),
    ("visualize", "--out"): (["--model", "digits", "--r", "2"], ".png"),
    ("conformance", "--json"): (["--backend", "numpy"], ".json"),
    ("conformance", "--html"): (["--backend", "numpy"], ".html"),
    ("train", "--out"): (["digits"], ".safetensors"),
    ("evaluate", "--plot"): (["digits"], ".png"),
    ("evaluate", "--json"): (["digits"], ".json"),
    ("bench", "--json"): (["--backend", "numpy"], ".json"),
    ("bench", "--plot"): (["--backend", "numpy"], ".svg"),
    ("export", "--out"): (["tokenmerge:digits", "--format", "torch-export"], ".pt2"),
}
READS = {
    ("demo", "--image"),
    ("visualize", "image"),
    ("visualize", "--weights"),
    ("conformance", "--skips"),
    ("conformance", "--xfails"),
    ("evaluate", "--weights"),
    ("export", "--weights"),
    ("export", "--image"),
}
STREAMS = {("conformance", "--json"), ("conformance", "--html")}  # these may be pipes, as /dev/stdout


def options_with_a_path() -> set[tuple[str, str]]:
    """Every command and option, or argument, that is a path."""
    found = set()
    for command in app.registered_commands:
        assert command.callback is not None
        for name, hint in get_type_hints(command.callback, include_extras=True).items():
            parts = [*get_args(hint), *(part for each in get_args(hint) for part in get_args(each))]
            if Path in parts or list[Path] in parts:
                argument = any(isinstance(each, ArgumentInfo) for each in parts)
                option = name if argument else f"--{name.replace('_', '-')}"
                found.add((command.name or command.callback.__name__, option))
    return found


def test_every_option_with_a_path_is_known_to_write_or_to_read() -> None:
    assert options_with_a_path() == set(WRITES) | READS


def test_modules_that_write_go_through_the_parser_here() -> None:
    """`python -m` of these takes paths to write, and their doors are among those that are killed below."""
    known = {"vectors/__main__.py": {"--out"}, "others/__main__.py": {"--json", "--page"}}
    found = {
        str(path.relative_to(ROOT / "conformance")): set(re.findall(r'"(--\w+)", type=Path', path.read_text()))
        for path in (ROOT / "conformance").rglob("__main__.py")
    }
    assert {name: options for name, options in found.items() if options} == known


def _call(command: str, option: str, path: Path | str) -> Any:
    others, _ = WRITES[command, option]
    return CliRunner().invoke(app, [command, *others, option, str(path)])


def _wrong_places(folder: Path, ending: str) -> dict[str, Path]:
    places = {name: folder / f"{name}{ending}" for name in ("a_folder", "pipe", "circle", "device")}
    places["a_folder"].mkdir()
    os.mkfifo(places["pipe"])
    places["circle"].symlink_to(places["circle"])
    places["device"].symlink_to("/dev/null")
    return places | {"nowhere": folder / "no" / f"a{ending}"}


@pytest.mark.parametrize(("command", "option"), WRITES, ids=lambda value: value)
def test_a_wrong_place_is_told_before_any_work(command: str, option: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    pytest.importorskip("hypothesis")
    for kind, path in _wrong_places(tmp_path, WRITES[command, option][1]).items():
        if kind in ("pipe", "device") and (command, option) in STREAMS:
            continue
        result = _call(command, option, path)
        said = result.stderr.strip()
        assert result.exit_code == 2, (kind, result.output)
        assert re.fullmatch(rf"\w+: `{option.strip('-')}` must [^\n]*, got [^\n]*", said), (kind, said)
    assert not Path("/dev/null").is_file() and (tmp_path / f"circle{WRITES[command, option][1]}").is_symlink()


@pytest.mark.parametrize(("command", "option"), WRITES, ids=lambda value: value)
def test_a_folder_that_is_read_only_is_told_before_any_work(
    command: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    pytest.importorskip("hypothesis")

    def refused(*arguments: Any, **options: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    path = tmp_path / f"a{WRITES[command, option][1]}"
    path.write_text("old")
    monkeypatch.setattr(files.tempfile, "TemporaryFile", refused)
    result = _call(command, option, path)
    assert result.exit_code == 2 and "Read-only file system" in result.stderr, result.output
    assert path.read_text() == "old"


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_reliability_writers import WRITERS
from tokenmerge import files
folder = Path(sys.argv[2])

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

for number, (door, (name, call)) in enumerate(WRITERS.items()):
    (folder / str(number)).mkdir()
    call(folder / str(number) / name)  # what has to be imported is there before anybody is killed
    path = folder / f"killed {number}" / name
    path.parent.mkdir()
    path.write_bytes(b"old")
    child = os.fork()
    if child == 0:
        Path.replace = die
        try:
            call(path)
        finally:
            os._exit(0)
    killed = os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    print(door, "killed" if killed else "lived", "old" if path.read_bytes() == b"old" else "lost", sep=", ")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a child is killed")
def test_who_is_killed_while_writing_leaves_the_old_file_at_every_door(tmp_path: Path) -> None:
    for needed in ("torch", "matplotlib", "hypothesis"):
        pytest.importorskip(needed)
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    from test_reliability_writers import WRITERS

    lines = run.stdout.splitlines()
    assert len(lines) == len(WRITERS), run.stderr[-2000:]
    assert all(line.endswith(", killed, old") for line in lines), run.stdout


def test_a_link_to_nothing_is_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "real.json", tmp_path / "link.json"
    link.symlink_to(target)
    files.write_text("test", "out", link, "new")
    assert link.is_symlink() and target.read_text() == "new"
