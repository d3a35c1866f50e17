"""What every merger and every plan can do, whatever framework its arrays are of: types for those who check code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tokenmerge.spec.shared.merged import Merged


class Plan(Protocol):
    """A batch of matrices `W (B,P,N)` over the token axis (docs/plan.md)."""

    @property
    def num_tokens_in(self) -> int: ...

    @property
    def num_tokens_out(self) -> int: ...

    @property
    def mask(self) -> Any: ...

    def matrix(self, size: Any = None) -> Any: ...

    def share(self) -> Any: ...

    def merge(self, x: Any, size: Any = None) -> Any: ...

    def merge_size(self, size: Any = None) -> Any: ...

    def unmerge(self, y: Any) -> Any: ...


class Merger(Protocol):
    """An algorithm with its options and parameters. What `plan` reads differs, see docs/backends.md."""

    def plan(self, *arrays: Any, **arguments: Any) -> Any: ...

    def params(self) -> Mapping[str, Any]: ...

    def load_params(self, params: Mapping[str, Any]) -> None: ...

    def __call__(self, *arrays: Any, **arguments: Any) -> Merged: ...
