"""Files and pictures with wrong bytes: `python tools/fuzz/parsers.py`; `--atheris` for a run guided by coverage.

Whatever a file holds, it is read, or refused in one sentence (`clear`); refused parameters leave the merger as it was.
"""

from __future__ import annotations

import gc
import io
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from fuzz_run import Tally, main

from tokenmerge import get_merger
from tokenmerge.params import load_params, save_params

FOLDER = Path(tempfile.mkdtemp())
PARSERS = ("tokenmerge.params", "tokenmerge.files", "tokenmerge.pictures", "tokenmerge.conformance", "PIL", "json")
MERGER = get_merger("ltm", dim=4, compression_ratio=0.5)


def parameters(path: Path) -> None:
    """A file of parameters; a changed merger would be a finding."""
    before = MERGER.params()["weight"]
    try:
        load_params(MERGER, path)
    except (TypeError, ValueError):
        if not np.array_equal(MERGER.params()["weight"], before, equal_nan=True):
            raise AssertionError("a refused file has changed the merger") from None
        raise


def picture(path: Path) -> None:
    from tokenmerge.pictures.photo import load_photo

    load_photo(path, 8)


def report(path: Path) -> None:
    from tokenmerge.conformance.report.__main__ import _page, _read

    _page([_read(str(path))])


def skips(path: Path) -> None:
    from tokenmerge.conformance.checks import CHECKS
    from tokenmerge.conformance.skips import read_skips

    read_skips(path, CHECKS, ("float32",))


def examples() -> dict[str, tuple[Callable[[Path], None], list[bytes]]]:
    """Readers, and files that they take."""
    from PIL import Image

    from tokenmerge.conformance.report.record import make_report
    from tokenmerge.conformance.request import request

    save_params(MERGER, FOLDER / "good")
    pictures = []
    for kind, mode in (("PNG", "RGB"), ("PNG", "LA"), ("TIFF", "F"), ("GIF", "P"), ("BMP", "L"), ("JPEG", "RGB")):
        data = io.BytesIO()
        Image.new(mode, (9, 7)).save(data, kind)
        pictures.append(data.getvalue())
    text = json.dumps(make_report(request("numpy", dtypes=("float32",)), [], partial=True)).encode()
    return {
        "parameters": (parameters, [(FOLDER / "good").read_bytes()]),
        "picture": (picture, pictures),
        "report": (report, [text]),
        "skips": (skips, [b"# why\nltm-generic @ float32: no\ntome-exact: never\n"]),
    }


def changed(data: bytes, generator: np.random.Generator) -> bytes:
    """The bytes with a few of them changed, cut off, doubled or exchanged."""
    found = bytearray(data)
    for _ in range(int(generator.integers(1, 5))):
        at = int(generator.integers(0, len(found) + 1))
        kind = int(generator.integers(6))
        if kind == 0 and found:
            found[at % len(found)] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            del found[at:]
        elif kind == 2:
            found[at:at] = generator.bytes(int(generator.integers(1, 9)))
        elif kind == 3:
            found[at : at + 8] = int(generator.choice([0, 1, 2**31, 2**63 - 1])).to_bytes(8, "little")
        elif kind == 4:
            found[at:at] = found[at : at + int(generator.integers(1, 60))]
        elif found:
            words = [b"null", b"1e999", b"-1", b'"<script>"', b"NaN", b"{}", b"F8_E4M3", b"BF16"]
            found[at : at + 4] = words[generator.integers(len(words))]
    return bytes(found)


def read(name: str, reader: Callable[[Path], None], data: bytes, tally: Tally) -> None:
    """Read a file and count the outcome."""
    path = FOLDER / name
    path.write_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader(path)
    except (TypeError, ValueError, OSError) as error:
        text = str(error)
        clear = "\n" not in text and ("`" in text or text.startswith(("report:", "html_page:", "conformance:")))
        tally.add("clear" if clear else "traceback", "" if clear else f"{name} {type(error).__name__}: {text[:200]!r}")
    except BaseException as error:
        tally.add("traceback", f"{name} {type(error).__name__}: {str(error)[:200]!r} of {data[:80]!r}")
    else:
        tally.add("read")


def one(generator: np.random.Generator, tally: Tally) -> None:
    """One file with wrong bytes."""
    name = str(generator.choice(sorted(EXAMPLES)))
    reader, files = EXAMPLES[name]
    read(name, reader, changed(files[generator.integers(len(files))], generator), tally)


def guided() -> None:
    """A run guided by coverage, which needs atheris; its options come after `--atheris` (`-max_total_time=3600`)."""
    import atheris

    names = sorted(EXAMPLES)

    def test(data: bytes) -> None:
        if data:
            name = names[data[0] % len(names)]
            tally = Tally()
            read(name, EXAMPLES[name][0], data[1:], tally)
            if tally.findings:
                raise RuntimeError(tally.findings[0])

    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for i, name in enumerate(names):
        for j, data in enumerate(EXAMPLES[name][1]):
            (corpus / f"{name}-{j}").write_bytes(bytes([i]) + data)
    arguments: list[Any] = [sys.argv[0], *(each for each in sys.argv[1:] if each != "--atheris"), str(corpus)]
    for reader, files in EXAMPLES.values():  # imports what reading needs
        for i, data in enumerate(files):
            path = FOLDER / f"good-{i}"
            path.write_bytes(data)
            reader(path)
    for each in gc.get_objects():
        if isinstance(each, FunctionType) and str(each.__module__).startswith(PARSERS):
            atheris.instrument_func(each)
    atheris.Setup(arguments, test)
    atheris.Fuzz()


EXAMPLES = examples()

if __name__ == "__main__":
    if "--atheris" in sys.argv:
        guided()
    sys.exit(main("parsers", ("read", "clear", "traceback"), one))
