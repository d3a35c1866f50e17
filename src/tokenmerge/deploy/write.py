"""`tokenmerge.export`: from a model to one complete file, or none."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tokenmerge.deploy.deployed import Deployed
from tokenmerge.deploy.formats import Run
from tokenmerge.deploy.request import Request
from tokenmerge.deploy.source import image_shape as shape_of
from tokenmerge.deploy.source import load_model
from tokenmerge.files import check_path, check_writable, put
from tokenmerge.spec.shared.arguments import check_integer, shown


class Written(NamedTuple):
    """A file for a runtime.

    Attributes:
        path, format: of the file. nodes: in its graph. bytes: of all its files.
        outputs: what comes out, in order. shape: channels, height and width of an image.
    """

    path: Path
    format: str
    nodes: int | None
    bytes: int
    outputs: tuple[str, ...]
    shape: tuple[int, int, int]

    def load(self, threads: int | None = None) -> Run:
        """The file in its runtime: a function of NumPy images `(B, channels, height, width)` to a list of arrays."""
        from tokenmerge.deploy.formats import FORMATS

        return FORMATS[self.format].load(self.path, threads)


def export(
    model: torch.nn.Module | str,
    out: str | os.PathLike[str],
    *,
    format: str = "onnx",
    merger: str = "none",
    batch: int | None = None,
    dtype: str = "float32",
    int8: bool = False,
    with_plans: bool = False,
    opset: int | None = None,
    image_shape: tuple[int, int, int] | None = None,
    weights: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Written:
    """Write a model that merges tokens as a file for another runtime.

    Args:
        model: a patched model, a `ViT` of ours, a model to patch, or a name as in `tokenmerge export`.
        out: the file; one that is there is replaced when the new one is complete.
        format: "onnx", "openvino", "executorch", "aoti", "torch-export" or "stablehlo" (our own networks only).
        merger: "none" leaves the model as it is; else its copy is patched with this merger and its `options`.
        batch: images in a call; None for any number ("executorch": one).
        dtype: "float32", "float16" or "bfloat16".
        int8: linear maps quantized to eight bits, their inputs at run time ("onnx" only).
        with_plans: the composed plan comes out, too: "Plans as outputs" in docs/guides/deploy.md.
        opset: of ONNX, 18 or newer; None for the exporter's own.
        image_shape: channels, height and width; None for what the model says.
        weights: a safetensors file, with a name only.

    Returns:
        `Written`, whose `load()` runs the file.

    Raises:
        TypeError, ValueError: an option of the wrong type or range, or a model that cannot be patched or exported.
        ImportError: the format's packages are not installed.
        OSError: the file cannot be written. In all cases nothing is left behind.

    >>> import tempfile, numpy as np
    >>> from tokenmerge import export
    >>> file = export("tokenmerge:digits", Path(tempfile.mkdtemp()) / "digits.pt2", format="torch-export",
    ...     merger="tome", r=8, with_plans=True)
    >>> logits, assignment = file.load()(np.zeros((2, 1, 32, 32), np.float32))
    >>> logits.shape, assignment.shape
    ((2, 10), (2, 65))
    """
    request = Request(check_path("export", "out", out), format, batch, dtype, int8, with_plans, opset)
    check_writable("export", "out", request.out)
    weights = None if weights is None else check_path("export", "weights", weights)
    if image_shape is not None:
        _check_shape(image_shape)
    ready = prepared(model, merger, weights, format == "stablehlo", options)
    shape = shape_of(ready) if image_shape is None else image_shape
    return write(ready, request, shape)


def _check_shape(shape: Any) -> None:
    if not isinstance(shape, tuple | list) or len(shape) != 3:
        raise TypeError(f"export: `image_shape` must be channels, height and width, got {shown(shape)}")
    for side in shape:
        check_integer("export", "image_shape", side, minimum=1)


def prepared(
    model: torch.nn.Module | str, merger: str, weights: Path | None, ours: bool, options: dict[str, Any]
) -> torch.nn.Module:
    """The model that is exported: loaded, or a copy, and patched if a merger is given."""
    if isinstance(model, str):
        return load_model(model, merger=merger, weights=weights, ours=ours, **options)
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"export: `model` must be a torch.nn.Module or a name, got {type(model).__name__}")
    if weights is not None:
        raise ValueError("export: `weights` must be None for a model that is a module, which has its own")
    made = copy.deepcopy(model).eval()
    if merger != "none":
        from tokenmerge.backends.torch.patching import patch

        patch(made, merger, **options)
    return made


def write(model: torch.nn.Module, request: Request, shape: tuple[int, int, int]) -> Written:
    """The file of a request; what the format refuses becomes one sentence."""
    if request.format == "stablehlo" and not hasattr(model, "params"):
        raise ValueError(
            "export: `model` must be a network of ours for the format 'stablehlo' (`tokenmerge:NAME`), "
            f"got {type(model).__name__}"
        )
    dtype = getattr(torch, request.dtype)
    deployed = Deployed(model.to(dtype), request.with_plans).eval()
    # a batch of one would be taken for a constant
    example = torch.zeros((2 if request.any_batch else request.batch or 1, *shape))
    with torch.no_grad():
        deployed.probe(example)
    # written beside it, so that it is complete when it takes its place
    folder = Path(tempfile.mkdtemp(prefix=".export-", dir=request.out.resolve().parent))
    try:
        part = folder / request.out.with_suffix(request.runtime.suffix).name
        with torch.no_grad():
            nodes = _written(request, deployed, example, part)
        files = sorted(folder.iterdir())
        size = sum(each.stat().st_size for each in files)
        for each in sorted(files, key=lambda file: file == part):  # what the file refers to is there before it
            target = request.out.resolve()
            put(each, target if each == part else target.with_suffix(each.suffix))
    except OSError as error:
        why = error.strerror or str(error)
        raise OSError(f"export: `out` must be a file that can be written, got {str(request.out)!r}, {why}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Written(request.out, request.format, nodes, size, deployed.outputs, shape)


def _written(request: Request, deployed: Deployed, example: torch.Tensor, part: Path) -> int | None:
    try:
        return request.runtime.write(deployed, example, part, **request.options())
    except OSError:
        raise
    except Exception as error:  # every exporter has exceptions of its own
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(
            f"export: `format` must be one that can hold this model, got {request.format!r} ({said})"
        ) from error
