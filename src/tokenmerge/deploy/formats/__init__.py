"""The formats: what each needs, how a model is written in it, and how the file is run.

One explicit table. A format is a module with `write` and `load`; it is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Run = Callable[[Array], list[Array]]


@dataclass(frozen=True)
class Format:
    """A file format with its runtime.

    Attributes:
        name: as it is asked for. suffix: of its files.
        needs: modules that have to be there, and the packages that bring them.
        any_batch: whether one file takes any number of images.
        dtypes: that its runtime computes in on a CPU.
        named: whether its runtime goes by the suffix.
    """

    name: str
    suffix: str
    needs: tuple[tuple[str, str], ...]
    any_batch: bool = True
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    named: bool = False

    def require(self) -> None:
        """Refuse if a package is missing.

        Raises:
            ImportError: the sentence says what to install.
        """
        missing = [package for module, package in self.needs if find_spec(module) is None]
        if missing:
            names = " ".join(missing)
            raise ImportError(f"export: format {self.name!r} needs {', '.join(missing)}: pip install {names}")

    @property
    def _module(self) -> Any:
        return importlib.import_module(f"tokenmerge.deploy.formats.{self.name.replace('-', '_')}")

    def write(self, model: Any, example: Any, out: Path, **options: Any) -> int | None:
        """Write `model` for images like `example`; returns the number of nodes in the graph, where it has any."""
        return self._module.write(model, example, out, **options)

    def load(self, file: Path, threads: int | None = None) -> Run:
        """The file in its runtime: NumPy images to the outputs as NumPy arrays."""
        return self._module.load(file, threads)


SINGLE, HALF = ("float32",), ("float32", "float16")
_ONNX = (("onnx", "onnx"), ("onnxscript", "onnxscript"))
FORMATS = {
    made.name: made
    for made in (
        Format("onnx", ".onnx", (*_ONNX, ("onnxruntime", "onnxruntime")), dtypes=HALF),
        Format("openvino", ".xml", (*_ONNX, ("openvino", "openvino")), dtypes=HALF, named=True),
        Format("executorch", ".pte", (("executorch", "executorch"),), any_batch=False, dtypes=SINGLE),
        Format("aoti", ".pt2", (), named=True),
        Format("torch-export", ".pt2", (), named=True),
        Format("stablehlo", ".bin", (("jax", "jax"), ("flax", "flax")), dtypes=SINGLE),
    )
}
