"""The state of a training as one file, written whole or not at all; it is read by the run that wrote it only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tokenmerge.files import check_writable, replacing

NAME = "checkpoint.pt"


def prepare(out: Path, resume: bool) -> Path:
    """The folder is there, a checkpoint can be written into it, and none that is there would be lost.

    What a killed process had begun to write is taken away.

    Raises:
        OSError: the folder cannot be made or written; ValueError: it holds a checkpoint and `resume` was not given.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"train: `out` must be a folder that can be made, got {str(out)!r}, {error.strerror}") from None
    path = out / NAME
    check_writable("train", "out", path)
    if path.exists() and not resume:
        raise ValueError(f"train: `out` must be a folder without a checkpoint, got {str(out)!r} (--resume goes on)")
    for part in out.glob(f".*.{NAME}"):
        if not _lives(part.name.split(".")[1]):
            part.unlink(missing_ok=True)
    return path


def _lives(pid: str) -> bool:
    """Whether a process is still there, and may be writing."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint. OSError."""
    with replacing("train", "out", path) as part:
        try:
            torch.save(dict(state), part)
        except RuntimeError as error:  # so PyTorch says that a disk is full
            raise OSError(5, " ".join(str(error).split())[:200]) from None


def read(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint of a run with this identity.

    Raises:
        ValueError: it cannot be read, or another run wrote it.
    """
    what = f"train: `out` must hold a checkpoint of this run to resume from, got {str(path)!r}"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever reading pickles and archives raises
        raise ValueError(f"{what}, which cannot be read ({' '.join(str(error).split())[:100]})") from None
    written = state.get("identity") if isinstance(state, dict) else None
    if not isinstance(written, dict):
        raise ValueError(f"{what}, which is none of tokenmerge")
    for name in sorted({*written, *identity}):
        if written.get(name) != identity.get(name):
            option = name.replace("_", "-")
            raise ValueError(f"{what}, with `{option}` {written.get(name)!r} and not {identity.get(name)!r}")
    return state
