"""The files: written, read again, and compared with what the cases give now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tokenmerge.conformance.vectors.build import Files, Index
from tokenmerge.files import write_tensors, write_text

FINEST = "float64"  # the tolerance between two machines


def write(folder: Path, index: Index, files: Files) -> None:
    """Write `index.json` and the files of tensors; the same bytes for the same values."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in files.items():
        write_tensors("vectors", "folder", folder / name, tensors)
    write_text("vectors", "folder", folder / "index.json", dump(index))


def dump(index: Index) -> str:
    """JSON with a line for every field of a case and every rule: short enough to read, and to compare.

    >>> print(dump({"schema": 1, "rules": {"A-1": "a"}, "cases": [{"id": "a", "config": {"r": 1}}]}), end="")
    {
    "schema": 1,
    "rules": {
    "A-1": "a"
    },
    "cases": [
    {
    "id": "a",
    "config": {"r":1}
    }
    ]
    }
    """
    parts = []
    for key, value in index.items():
        if isinstance(value, list):
            text = "[\n" + ",\n".join(_lines(case) for case in value) + "\n]"
        else:
            text = _lines(value) if isinstance(value, dict) else json.dumps(value)
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(fields: Index) -> str:
    """An object with a line for every field."""
    short = (f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in fields.items())
    return "{\n" + ",\n".join(short) + "\n}"


def stale(folder: Path, index: Index, files: Files) -> str | None:
    """One sentence on the first case whose files are not what they should be; None where all are.

    Ids, options, shapes, integers and inputs are compared exactly, results within their float64 tolerance, and the
    rounded numbers of the index within a unit of their last digit: two machines may differ by so much.
    """
    try:
        file = "index.json"
        found = json.loads((folder / file).read_text(encoding="utf-8"))
        tensors = {}
        for file in files:
            tensors[file] = load_file(folder / file)
    except (OSError, ValueError, SafetensorError) as error:
        return f"vectors: {file} must be a file of vectors in {folder}, got {type(error).__name__}"
    ids = [case["id"] for case in found["cases"]]
    for case in index["cases"]:
        name = case["id"]
        if name not in ids:
            return f"vectors: {name} must be in index.json, got nothing"
        if not alike(case, found["cases"][ids.index(name)]):
            return f"vectors: {name} in index.json must be what the case gives now, got something else"
        wrong = _stale_tensor(case, tensors[case["file"]], files[case["file"]])
        if wrong:
            return f"vectors: {wrong} in {case['file']} must be what the case gives now, got something else"
    extra = [name for name in ids if name not in {case["id"] for case in index["cases"]}]
    extra += [name for file in files for name in tensors[file] if name not in files[file]]
    if extra:
        return f"vectors: {extra[0]} must be a case, got one that is not there any more"
    if not alike({**index, "cases": ids}, {**found, "cases": ids}):
        return "vectors: the head of index.json must be what the cases give now, got something else"
    return None


def _stale_tensor(case: Index, found: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """The first tensor of a case that differs."""
    for group in ("inputs", "params", "expected"):
        for short, tensor in case[group].items():
            name = f"{case['id']}/{group}/{short}"
            got, want = found.get(name), wanted[name]
            if got is None or got.dtype != want.dtype or got.shape != want.shape:
                return name
            allowed = tensor["tolerance"][case["dtypes"].index(FINEST)] if "tolerance" in tensor else 0.0
            with np.errstate(invalid="ignore"):
                same = (got == want) | (np.abs(got - want) <= allowed) if allowed else got == want
            if not (same | ((got != got) & (want != want))).all():
                return name
    return None


def alike(one: Any, other: Any) -> bool:
    """Equal, where numbers that were rounded to three digits may differ by a unit of the last.

    >>> alike({"a": [1, 1.24e-7]}, {"a": [1, 1.25e-7]}), alike(1, 2), alike({}, {"a": 1})
    (True, False, False)
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(alike(a, b) for a, b in zip(one, other, strict=True))
    if type(one) is float and type(other) is float:
        return abs(one - other) <= max(abs(one), abs(other)) / 100
    return type(one) is type(other) and bool(one == other)
