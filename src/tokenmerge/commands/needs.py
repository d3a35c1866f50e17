"""What a command needs beside this package, as one sentence."""

from __future__ import annotations

from importlib.util import find_spec


def require_torch(command: str) -> None:
    """Refuse without PyTorch.

    Raises:
        ImportError: the sentence says what to install.
    """
    if find_spec("torch") is None:
        raise ImportError(f"{command} needs PyTorch: pip install torch")
