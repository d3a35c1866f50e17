"""Parameters on disk, as safetensors: written from one backend, read into any other."""

from __future__ import annotations

from os import PathLike
from typing import Any

from safetensors.numpy import load_file, save_file


def save_params(merger: Any, path: str | PathLike[str]) -> None:
    """Write a merger's learned parameters to a safetensors file, under the names all backends use.

    Args:
        merger: an object of any backend, with `params()`.
        path: the file, overwritten if it exists.
    """
    save_file(merger.params(), path)


def load_params(merger: Any, path: str | PathLike[str]) -> None:
    """Read a merger's learned parameters from a safetensors file.

    Args:
        merger: an object of any backend, with `load_params(mapping)`.
        path: the file.

    Raises:
        ValueError: the file does not hold exactly this merger's names and shapes; nothing is changed then.

    >>> import tempfile, os
    >>> from tokenmerge import get_merger
    >>> file = os.path.join(tempfile.mkdtemp(), "merger.safetensors")
    >>> save_params(get_merger("patch_merger", dim=4, num_tokens_out=2, seed=1), file)
    >>> merger = get_merger("patch_merger", dim=4, num_tokens_out=2)
    >>> load_params(merger, file)
    """
    merger.load_params(load_file(path))
