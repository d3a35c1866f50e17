"""Makes the index and the tensors out of the cases."""

from __future__ import annotations

from decimal import ROUND_DOWN, ROUND_UP, Context
from typing import Any

import numpy as np

from tokenmerge.conformance.rounding import Rounded, budget_used
from tokenmerge.conformance.rules import rules
from tokenmerge.conformance.vectors.bounds import bounds
from tokenmerge.conformance.vectors.cases import FILES, WITHOUT
from tokenmerge.conformance.vectors.expected import expected
from tokenmerge.conformance.vectors.margins import decisions
from tokenmerge.conformance.vectors.vector import Array, Vector

SCHEMA = 1
DTYPES = ("float64", "float32", "float16", "bfloat16")
ALWAYS_FINE = ("size", "weights")  # inputs that stay in float32 in half precision

Index = dict[str, Any]
Files = dict[str, dict[str, Array]]


def build() -> tuple[Index, Files]:
    """The index, and for every file its tensors by name."""
    index: Index = {"schema": SCHEMA, "rules": rules(), "rules_without_cases": WITHOUT, "cases": []}
    files: Files = {}
    for file, vectors in FILES.items():
        tensors = files.setdefault(f"{file}.safetensors", {})
        for vector in vectors:
            results = expected(vector)
            index["cases"].append(entry(vector, results, f"{file}.safetensors"))
            groups = {"inputs": vector.inputs, "params": vector.params, "expected": results}
            for group, arrays in groups.items():
                tensors |= {f"{vector.id}/{group}/{name}": stored(array) for name, array in arrays.items()}
    return index, files


def entry(vector: Vector, results: dict[str, Array], file: str) -> Index:
    """What the index says about a case."""
    unknown = set(vector.rules) - set(rules())
    if unknown:
        raise ValueError(f"vectors: {vector.id} must exercise rules of the spec, got {', '.join(sorted(unknown))}")
    decided = decisions(vector)
    errors = {dtype: _bounds(vector, results, dtype) for dtype in DTYPES if fits(vector, results, dtype)}
    tensors = {name: describe(array) for name, array in results.items()}
    for name, tensor in tensors.items():
        if results[name].dtype.kind == "f":
            tensor["tolerance"] = [
                rounded_up(float(np.max(bound[name].error, initial=0.0))) for bound in errors.values()
            ]
    margins = {} if decided is None else decided.closest()
    for kind, each in margins.items():
        if not (decided and decided.exact) and each["margin"] <= each["rounding"]:
            raise ValueError(f"vectors: {vector.id} must have a margin beyond rounding for {kind}, got {each}")
    return {
        "id": vector.id,
        "rules": list(vector.rules),
        "about": vector.about,
        "file": file,
        "function": vector.function,
        "config": vector.config,
        "dtypes": list(errors),
        "samples": None if vector.samples is None else list(vector.samples),
        "inputs": {name: describe(array) for name, array in vector.inputs.items()},
        "params": {name: describe(array) for name, array in vector.params.items()},
        "expected": tensors,
        "exact": None if decided is None else decided.exact,
        "margins": {
            kind: {"margin": rounded_down(each["margin"]), "rounding": rounded_up(each["rounding"])}
            for kind, each in margins.items()
        },
    }


def _bounds(vector: Vector, results: dict[str, Array], dtype: str) -> dict[str, Rounded]:
    """Bounds on every result; the two computations of the value, here and in the spec, must agree."""
    with np.errstate(all="ignore"):  # NaN in the padding
        found = {name: bound for name, bound in bounds(vector, results, dtype).items() if name in results}
    for name, bound in found.items():
        own = results[name] if vector.samples is None else results[name][list(vector.samples)]
        if own.shape != bound.value.shape or not np.isfinite(bound.error).all() or (budget_used(own, bound) > 1).any():
            raise ArithmeticError(f"vectors: {vector.id} must agree with its bounds on {name}, got {bound} and {own}")
    missing = {name for name, array in results.items() if array.dtype.kind == "f"} - set(found)
    if missing:
        raise ArithmeticError(f"vectors: {vector.id} must have bounds on all results, got none on {missing}")
    return found


def fits(vector: Vector, results: dict[str, Array], dtype: str) -> bool:
    """Whether a dtype holds the floating-point inputs and parameters exactly, and the results without overflow."""
    given = {name: array for name, array in vector.inputs.items() if name not in ALWAYS_FINE} | vector.params
    exact = all(holds(array, dtype) for array in given.values() if array.dtype.kind == "f")
    largest = max((float(np.abs(a).max(initial=0)) for a in results.values() if a.dtype.kind == "f"), default=0.0)
    return exact and largest <= (65504 if dtype == "float16" else 3e38)


def holds(array: Array, dtype: str) -> bool:
    """Whether a dtype has these float32 numbers.

    >>> holds(np.float32([257.0]), "float16"), holds(np.float32([257.0]), "bfloat16")
    (True, False)
    """
    finite = array[np.isfinite(array)].astype(np.float32)
    if dtype == "bfloat16":
        return not (finite.view(np.uint32) & 0xFFFF).any()
    with np.errstate(over="ignore"):
        return bool((finite.astype(dtype) == finite).all())


def stored(array: Array) -> Array:
    """As it lies in the file: masks are bytes, which every reader of safetensors knows."""
    return array.astype(np.uint8) if array.dtype.kind == "b" else array.copy(order="C")


def describe(array: Array) -> Index:
    """Dtype and shape of a tensor in the file."""
    return {"dtype": str(stored(array).dtype), "shape": list(array.shape)}


def rounded_up(value: float) -> float:
    """To three digits, so that the index is the same on machines whose last bits differ.

    >>> rounded_up(1.2341e-7), rounded_up(0.0)
    (1.24e-07, 0.0)
    """
    return float(Context(prec=3, rounding=ROUND_UP).create_decimal_from_float(value))


def rounded_down(value: float) -> float:
    """To three digits, for what must not be overstated."""
    return float(Context(prec=3, rounding=ROUND_DOWN).create_decimal_from_float(value))
