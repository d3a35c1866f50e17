"""Files: whether one can be written is known before the work, and one is written whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tokenmerge.spec.shared.arguments import shown

Array = np.ndarray[Any, Any]

# the dtypes of safetensors that NumPy has; bfloat16, which it has not, is read as float32
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?", "U8": "u1", "I8": "i1"}
_DTYPES |= {f"{kind}{8 * width}": f"<{kind.lower()}{width}" for kind in "IU" for width in (2, 4, 8)}


def check_path(owner: str, name: str, path: Any) -> Path:
    """Check that a path is one, and return it.

    Raises:
        TypeError, ValueError: no text and no path; or a null character in it.

    >>> check_path("load_params", "path", 5)
    Traceback (most recent call last):
    ...
    TypeError: load_params: `path` must be a path, got 5
    """
    text = path.__fspath__() if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"{owner}: `{name}` must be a path, got {shown(path)}")
    if "\0" in text:
        raise ValueError(f"{owner}: `{name}` must be a path without a null character, got {shown(text)}")
    return Path(text)


def check_writable(owner: str, name: str, path: str | os.PathLike[str]) -> None:
    """Check that a file can be written, without touching what is there.

    Args:
        owner: who asks, the first word of the sentence.
        name: of the option or argument.
        path: of the file; a link is followed.

    Raises:
        TypeError, ValueError: no path. OSError: it cannot.

    >>> check_writable("train", "out", "/")
    Traceback (most recent call last):
    ...
    OSError: train: `out` must be a file that can be written, got '/', which is a folder
    """
    path = check_path(owner, name, path)
    given = str(path)
    try:
        path = path.resolve()
        if path.is_dir():
            raise IsADirectoryError(21, "which is a folder")
        if path.exists() and not path.is_file():
            raise OSError(22, "which is a device or a pipe")
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(13, "which is read-only")
        tempfile.TemporaryFile(dir=path.parent).close()
    except (OSError, RuntimeError) as error:  # a circle of links is a RuntimeError before Python 3.13
        number = getattr(error, "errno", None) or errno.ELOOP
        why = "whose folder is not there" if number == errno.ENOENT else getattr(error, "strerror", None)
        why = why or os.strerror(number)
        raise OSError(f"{owner}: `{name}` must be a file that can be written, got {given!r}, {why}") from None


@contextmanager
def replacing(owner: str, name: str, path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file beside `path` to write into, which takes its place when all is written.

    What is there stays until then, whoever is killed and however full the disk is. A link stays a link, and the new
    file has the mode of the old one.

    Raises:
        OSError: it cannot be written; the sentence begins as that of `check_writable`.
    """
    check_writable(owner, name, path)
    target = Path(path).resolve()
    part = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        part.touch(exist_ok=False)
        yield part
        put(part, target)
    except OSError as error:
        why = error.strerror or str(error)
        raise OSError(f"{owner}: `{name}` must be a file that can be written, got {str(path)!r}, {why}") from None
    finally:
        part.unlink(missing_ok=True)


def put(part: Path, target: Path) -> None:
    """Put a file that is complete in the place of another, whose mode it takes; both lie in the same file system."""
    with part.open("rb") as written:
        os.fsync(written.fileno())
    if target.exists():
        part.chmod(target.stat().st_mode & 0o777)
    part.replace(target)


def write_bytes(owner: str, name: str, path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(owner, name, path) as part:
        part.write_bytes(data)


def write_text(owner: str, name: str, path: str | os.PathLike[str], text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    write_bytes(owner, name, path, text.encode("utf-8"))


def write_tensors(owner: str, name: str, path: str | os.PathLike[str], tensors: Mapping[str, Array]) -> None:
    """Write arrays as safetensors, whole or not at all."""
    from safetensors.numpy import save

    write_bytes(owner, name, path, save(dict(tensors)))


def read_tensors(owner: str, name: str, path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays of a safetensors file; bfloat16 as float32.

    Raises:
        TypeError: no path.
        ValueError: there is no such file, it is none of safetensors, or it holds a dtype that NumPy does not have.
    """
    from safetensors import SafetensorError, deserialize

    path = check_path(owner, name, path)
    what = f"{owner}: `{name}` must be a safetensors file of NumPy's dtypes, got {str(path)!r}"
    try:
        if not path.is_file():
            raise ValueError(f"{what}, which is {'a folder' if path.is_dir() else 'no file'}")
        entries: Any = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except (SafetensorError, OSError) as error:
        raise ValueError(what + (f", {error.strerror}" if isinstance(error, OSError) else "")) from None
    tensors = {}
    for entry, value in entries:
        if value["dtype"] not in _DTYPES:
            raise ValueError(f"{what}, in which {entry!r} is {value['dtype']}, which NumPy does not have")
        array = np.frombuffer(value["data"], _DTYPES[value["dtype"]]).reshape(value["shape"])
        if value["dtype"] == "BF16":
            array = (array.astype("<u4") << 16).view("<f4")
        tensors[str(entry)] = array.copy()
    return tensors
