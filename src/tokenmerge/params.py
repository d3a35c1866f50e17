"""Parameters on disk, as safetensors: written from one backend, read into any other."""

from __future__ import annotations

from os import PathLike
from typing import Any

from tokenmerge.files import read_tensors, write_tensors


def save_params(merger: Any, path: str | PathLike[str]) -> None:
    """Write a merger's learned parameters to a safetensors file, under the names all backends use.

    Args:
        merger: an object of any backend, with `params()`.
        path: the file, which is replaced when the new one is complete; a link stays a link, and the mode stays.

    Raises:
        TypeError: no such object.
        OSError: the file cannot be written; what was there is still there.
    """
    _check(merger, "save_params", "params")
    write_tensors("save_params", "path", path, merger.params())


def load_params(merger: Any, path: str | PathLike[str]) -> None:
    """Read a merger's learned parameters from a safetensors file.

    Args:
        merger: an object of any backend, with `load_params(mapping)`.
        path: the file; bfloat16 in it is read as float32.

    Raises:
        TypeError, ValueError: no file of safetensors, or one that does not hold exactly this merger's names and shapes
            as floating-point numbers; nothing is changed then.

    >>> import tempfile, os
    >>> from tokenmerge import get_merger
    >>> file = os.path.join(tempfile.mkdtemp(), "merger.safetensors")
    >>> save_params(get_merger("patch_merger", dim=4, num_tokens_out=2, seed=1), file)
    >>> merger = get_merger("patch_merger", dim=4, num_tokens_out=2)
    >>> load_params(merger, file)
    """
    _check(merger, "load_params", "load_params")
    params = read_tensors("load_params", "path", path)
    try:
        merger.load_params(params)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error} (in {str(path)!r})") from None


def _check(merger: Any, owner: str, method: str) -> None:
    if isinstance(merger, type) or not callable(getattr(merger, method, None)):
        raise TypeError(f"{owner}: `merger` must be an object with `{method}`, got {type(merger).__name__}")
