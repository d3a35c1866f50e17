"""Report files: whether one can be written is known before the work, and a half-written one is never left behind."""

from __future__ import annotations

import os
from pathlib import Path

from tokenmerge import files


def check_writable(name: str, path: Path) -> None:
    """Check that a report can be written, without touching what is there; OSError if it cannot.

    Args:
        name: of the option, for the sentence.
        path: of the file, or of a pipe or device such as `/dev/stdout`.
    """
    if not (_is_stream(path) and os.access(path, os.W_OK)):
        files.check_writable("conformance", name, path)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all; one that is there stays until the new one is complete."""
    if _is_stream(path):  # not to be replaced by a file
        path.write_text(text, encoding="utf-8")
    else:
        files.write_text("conformance", path.name, path, text)


def _is_stream(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()
