"""A merged model leaves PyTorch: one file for a runtime, held against eager PyTorch (docs/guides/deploy.md)."""

from __future__ import annotations

from tokenmerge.deploy.request import Request
from tokenmerge.deploy.write import Written, export

__all__ = ["Request", "Written", "export"]
