"""Report files: whether one can be written is known before the work, and a half-written one is never left behind."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def check_writable(name: str, path: Path) -> None:
    """Check that a report can be written, without touching what is there.

    Args:
        name: of the option, for the sentence.
        path: of the file.

    Raises:
        OSError: it cannot.
    """
    path = path.resolve()
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "which is a folder")
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(13, "which is read-only")
        if not path.exists() or path.is_file():
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        why = error.strerror if error.errno != 2 else "whose folder is not there"
        raise OSError(f"conformance: `{name}` must be a file that can be written, got {str(path)!r}, {why}") from None


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all; one that is there stays until the new one is complete."""
    path = path.resolve()  # a link stays a link
    if path.exists() and not path.is_file():  # a pipe or a device is not to be replaced by a file
        path.write_text(text, encoding="utf-8")
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
