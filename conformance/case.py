"""One call of one merger, as data: it can be run on any backend, judged, and printed as a program."""

from __future__ import annotations

import base64
import zlib
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np

from tokenmerge.backends import get_backend
from tokenmerge.conformance.rounding import working

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Case:
    """A merger, its options and parameters, and the arguments of its call.

    Args:
        merger: "tome", "ats", "patch_merger" or "ltm".
        config: its options.
        inputs: the arguments of the call by name, as NumPy arrays with the batch axis first; `x` among them.
        params: its learned parameters by name, float32; empty for those that have none.
        dtypes: of inputs that are given in another dtype than the tokens.
    """

    merger: str
    config: dict[str, Any]
    inputs: dict[str, Array]
    params: dict[str, Array] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)

    def in_dtype(self, name: str, dtype: str) -> str | None:
        """The dtype in which an input is given: sizes never in half precision unless told, other kinds as they are."""
        if self.inputs[name].dtype.kind != "f":
            return None
        return self.dtypes.get(name, working(dtype) if name == "size" else dtype)

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.config.items())
        given = {name: f" in {dtype}" for name, dtype in self.dtypes.items()}
        arrays = ", ".join(f"{name} {array.shape}{given.get(name, '')}" for name, array in self.inputs.items())
        return f"{self.merger}({options}) of {arrays}"

    def snippet(self, backend: str, dtype: str, device: str | None = None, exact: bool = False) -> str:
        """A program that repeats the call on the backend and on the spec and prints both."""
        where = "" if device is None else f", {device!r}"
        lines = [
            "import numpy as np",
            "from tokenmerge.conformance.case import Case, run_case, unpack",
            "from tokenmerge.conformance.judge import judge",
            "",
            f"case = Case({self.merger!r}, {self.config!r}, inputs={{",
            *(f"    {name!r}: {literal(array)}," for name, array in self.inputs.items()),
            "}, params={",
            *(f"    {name!r}: {literal(array)}," for name, array in self.params.items()),
            f"}}, dtypes={self.dtypes!r})" if self.dtypes else "})",
            f"outcome = run_case(case, {backend!r}, {dtype!r}{where})",
            f"print(outcome.plan, judge(case, outcome{', exact=True' if exact else ''}), sep='\\n')",
        ]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a backend made of a case, as NumPy arrays.

    Attributes:
        dtype: the dtype of the inputs.
        inputs: the inputs as the backend saw them, rounded to the dtype; floating-point ones in float64.
        tokens, size, mask: of the result, the floats in float64; `mask` may be None.
        dtypes: the dtypes that tokens and size had.
        plan: the plan's fields: `assignment`, `indices` or `weights`; `mask`; `num_tokens_in`, `num_tokens_out`.
        matrix, share, unmerged: `plan.matrix(size)`, `plan.share()` and `plan.unmerge(tokens)`.
        result: what the merger returned.
        given: dtypes of inputs that were given in another one than the tokens.
    """

    dtype: str
    inputs: dict[str, Array]
    tokens: Array
    size: Array
    mask: Array | None
    dtypes: dict[str, str]
    plan: dict[str, Any]
    matrix: Array
    share: Array
    unmerged: Array
    result: Any
    given: dict[str, str] = field(default_factory=dict)

    def precision(self, *names: str) -> str:
        """The finest working precision of some inputs, in which what is computed from them is computed."""
        dtypes = {self.given.get(name, self.dtype) for name in names}
        return max(map(working, dtypes))  # "float64" is behind "float32"


def backend_of(backend: str | ModuleType) -> ModuleType:
    """A backend's module, by name or as it is."""
    return backend if isinstance(backend, ModuleType) else get_backend(backend)


def context(module: ModuleType, dtype: str) -> Any:
    """What a backend needs around work in a dtype: its own `context`, or nothing."""
    return module.context(dtype) if hasattr(module, "context") else nullcontext()


def make_merger(case: Case, module: ModuleType, device: str | None = None) -> Any:
    """The case's merger on a backend, with the case's parameters; on a device, where mergers have a place (`to`)."""
    merger = module.MERGERS[case.merger](**case.config)
    if case.params:
        merger.load_params(case.params)
    return merger.to(device) if device is not None and hasattr(merger, "to") else merger


def give(case: Case, module: ModuleType, dtype: str, device: str | None = None) -> dict[str, Any]:
    """The case's inputs as arrays of a backend."""
    return {name: module.from_numpy(array, case.in_dtype(name, dtype), device) for name, array in case.inputs.items()}


def run_case(
    case: Case, backend: str | ModuleType = "numpy", dtype: str = "float32", device: str | None = None
) -> Outcome:
    """Run a case on a backend.

    Args:
        case: what to run.
        backend: a name known to the registry, a dotted module name, or a module.
        dtype: one of the backend's `DTYPES`.
        device: one of the backend's `devices()`; None for its default.

    >>> case = Case("tome", {"r": 1}, {"x": np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])})
    >>> run_case(case).plan["assignment"]
    array([[1, 1, 0]])
    """
    module = backend_of(backend)
    with context(module, dtype):
        arrays = give(case, module, dtype, device)
        seen = {name: to_numpy(module, array) for name, array in arrays.items()}
        result = make_merger(case, module, device)(arrays.pop("x"), **arrays)
        return replace(read(result, seen, arrays.get("size"), module, dtype), given=case.dtypes)


def read(result: Any, seen: dict[str, Array], size: Any, module: ModuleType, dtype: str) -> Outcome:
    """A merger's result as NumPy arrays."""
    made = result.plan
    fields: dict[str, Any] = {
        name: to_numpy(module, getattr(made, name))
        for name in ("assignment", "indices", "weights")
        if hasattr(made, name)
    }
    fields["mask"] = None if made.mask is None else to_numpy(module, made.mask)
    fields["num_tokens_in"], fields["num_tokens_out"] = made.num_tokens_in, made.num_tokens_out
    return Outcome(
        dtype=dtype,
        inputs=seen,
        tokens=to_numpy(module, result.tokens),
        size=to_numpy(module, result.size),
        mask=None if result.mask is None else to_numpy(module, result.mask),
        dtypes={name: str(getattr(result, name).dtype).rpartition(".")[2] for name in ("tokens", "size")},
        plan=fields,
        matrix=to_numpy(module, made.matrix(size)),
        share=to_numpy(module, made.share()),
        unmerged=to_numpy(module, made.unmerge(result.tokens)),
        result=result,
    )


def to_numpy(module: ModuleType, array: Any) -> Array:
    """A backend's array in NumPy, floating-point numbers in float64 (every dtype fits)."""
    values = np.asarray(module.to_numpy(array))
    return values.astype(np.float64) if values.dtype.kind not in "biu" else values


def literal(array: Array) -> str:
    """An array as an expression that makes the same array: readable when small, packed when large."""
    if array.size <= 64:
        return f"np.array({array.tolist()!r}, {str(array.dtype)!r}).reshape({array.shape!r})"
    packed = base64.b85encode(zlib.compress(array.tobytes(), 9)).decode()
    return f"unpack({packed!r}, {str(array.dtype)!r}, {array.shape!r})"


def unpack(packed: str, dtype: Any, shape: tuple[int, ...]) -> Array:
    """The array that `literal` packed.

    >>> array = np.arange(300.0).reshape(3, 100)
    >>> bool((eval(literal(array)) == array).all())
    True
    """
    return np.frombuffer(zlib.decompress(base64.b85decode(packed)), dtype).reshape(shape).copy()
