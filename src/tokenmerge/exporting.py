"""`tokenmerge.export`: a model for another runtime. PyTorch is loaded when it is called, not before."""

from __future__ import annotations

from typing import Any

from tokenmerge.commands.needs import require_torch

__all__ = ["export"]


def export(model: Any, out: Any, **options: Any) -> Any:
    """Write a model that merges tokens as a file for another runtime: `tokenmerge.deploy.export`.

    Args:
        model: a patched model, a network of ours in PyTorch, a model to patch, or a name.
        out: the file.
        **options: `format="onnx"`, `merger="none"` and its options, `batch`, `dtype`, `int8`, `with_plans`, `opset`,
            `image_shape`, `weights`.

    Returns:
        What was written; its `load()` runs the file.

    Raises:
        TypeError, ValueError, ImportError, OSError: as `tokenmerge.deploy.export`; nothing is left behind then.
    """
    require_torch("export")
    from tokenmerge import deploy

    return deploy.export(model, out, **options)
