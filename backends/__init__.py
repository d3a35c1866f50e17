"""The registry: which backends there are, and a merger from any of them by name."""

if __name__ == "backends":
    raise ImportError("import it as 'tokenmerge.backends'")

from tokenmerge.backends.doors import get_merger, get_vit
from tokenmerge.backends.registry import (
    BackendInfo,
    available_backends,
    get_backend,
    register_backend,
)

__all__ = ["BackendInfo", "available_backends", "get_backend", "get_merger", "get_vit", "register_backend"]
