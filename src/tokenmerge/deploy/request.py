"""What is to be exported, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenmerge.deploy.formats import FORMATS, Format
from tokenmerge.spec.shared.arguments import check_choice, check_flag, check_integer


@dataclass(frozen=True)
class Request:
    """One file for one runtime.

    Args:
        out: the file.
        format: one of `FORMATS`.
        batch: images in a call; None for any number, where the format has that, and one elsewhere.
        dtype: of parameters and images: "float32", "float16" or "bfloat16".
        int8: whether linear maps are quantized, their inputs at run time ("onnx" only).
        with_plans: whether the composed plan comes out, too.
        opset: of ONNX; None for the exporter's own.

    Raises:
        TypeError, ValueError: a value of the wrong type or range, or two that exclude each other.
        ImportError: the format's runtime is not installed; the sentence says what to install.

    >>> Request(Path("model.onnx"), "onxn")
    Traceback (most recent call last):
    ...
    ValueError: export: `format` must be one of 'onnx', 'openvino', 'executorch', 'aoti', 'torch-export', 'stablehlo', \
got 'onxn' (did you mean 'onnx'?)
    """

    out: Path
    format: str = "onnx"
    batch: int | None = None
    dtype: str = "float32"
    int8: bool = False
    with_plans: bool = False
    opset: int | None = None

    def __post_init__(self) -> None:
        check_flag("export", "int8", self.int8)
        check_flag("export", "with_plans", self.with_plans)
        check_choice("export", "format", self.format, FORMATS)
        check_choice(f"export to {self.format}", "dtype", self.dtype, self.runtime.dtypes)
        if self.batch is not None:
            check_integer("export", "batch", self.batch, minimum=1)
        if self.opset is not None:
            least = "the oldest that has all operators of a merger"
            check_integer("export", "opset", self.opset, minimum=18, hint=least)
        for name, allowed in (("int8", ("onnx",)), ("opset", ("onnx", "openvino"))):
            if getattr(self, name) not in (None, False) and self.format not in allowed:
                got = getattr(self, name)
                raise ValueError(f"export: `{name}` must be left out with the format {self.format!r}, got {got}")
        if self.runtime.named and self.out.suffix != self.runtime.suffix:
            suffix = self.runtime.suffix
            raise ValueError(f"export: `out` must end in {suffix!r} for {self.format!r}, got {str(self.out)!r}")
        if self.int8 and self.dtype != "float32":
            raise ValueError(f"export: `int8` must be with dtype='float32', got {self.dtype!r}")
        self.runtime.require()
        if self.opset is not None:
            import onnx

            newest = onnx.defs.onnx_opset_version()
            if self.opset > newest:
                raise ValueError(f"export: `opset` must be at most {newest}, which onnx knows, got {self.opset}")

    @property
    def runtime(self) -> Format:
        """The format, as code."""
        return FORMATS[self.format]

    @property
    def any_batch(self) -> bool:
        """Whether the file takes any number of images."""
        return self.batch is None and self.runtime.any_batch

    def options(self) -> dict[str, Any]:
        """What a format may ask for."""
        return {"any_batch": self.any_batch, "opset": self.opset, "int8": self.int8}
