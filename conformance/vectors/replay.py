"""Plays the files back on a backend: what a runner in any language does, here for those in Python.

Nothing is taken from the cases or from the spec; all there is to know is in the files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tokenmerge.conformance.case import context, to_numpy
from tokenmerge.conformance.rounding import working
from tokenmerge.conformance.vectors import DATA
from tokenmerge.spec.mergers import MERGERS

Array = np.ndarray[Any, Any]
Entry = dict[str, Any]
FINE = ("size", "weights", "first_weights", "second_weights")  # never in half precision


def read(folder: Path = DATA) -> tuple[list[Entry], dict[str, Array]]:
    """The cases of the index, and the tensors of all files by name.

    >>> cases, tensors = read()
    >>> tensors[f"{cases[0]['id']}/inputs/assignment"].tolist()
    [[0, 1, 0, 2, 1], [2, 2, 0, 1, 0]]
    """
    cases = json.loads((folder / "index.json").read_text(encoding="utf-8"))["cases"]
    tensors: dict[str, Array] = {}
    for name in dict.fromkeys(case["file"] for case in cases):
        tensors |= load_file(folder / name)
    return cases, tensors


def replay(
    case: Entry, tensors: dict[str, Array], module: ModuleType, dtype: str, device: str | None = None
) -> dict[str, Array]:
    """The results of a case on a backend, by the names of the expected ones; on a device, or on its default."""
    with context(module, dtype), np.errstate(all="ignore"):
        given = {}
        for name in case["inputs"]:
            array = tensors[f"{case['id']}/inputs/{name}"]
            if array.dtype == np.uint8:
                array = array.astype(bool)
            kind = None if array.dtype.kind != "f" else working(dtype) if name in FINE else dtype
            given[name] = module.from_numpy(array, kind, device)
        params = {name: tensors[f"{case['id']}/params/{name}"] for name in case["params"]}
        results = FUNCTIONS[case["function"]](module, case, given, params)
        return {name: to_numpy(module, results[name]) for name in case["expected"]}


def differences(case: Entry, tensors: dict[str, Array], got: dict[str, Array], dtype: str) -> list[str]:
    """One sentence for every result that is not what it must be."""
    found = []
    for name, tensor in case["expected"].items():
        want, have = tensors[f"{case['id']}/expected/{name}"], got[name]
        if have.shape != want.shape:
            found.append(f"{case['id']}: `{name}` must have shape {want.shape}, got {have.shape}")
            continue
        if case["samples"] is not None:
            want, have = want[case["samples"]], have[case["samples"]]
        tolerance = tensor["tolerance"][case["dtypes"].index(dtype)] if "tolerance" in tensor else 0
        error = np.abs(have.astype(want.dtype if want.dtype.kind == "f" else np.int64) - want)
        if not (error <= tolerance).all():
            found.append(f"{case['id']}: `{name}` must be {want.tolist()} within {tolerance}, got {have.tolist()}")
    return found


Given = dict[str, Any]
Function = Callable[[ModuleType, Entry, Given, dict[str, Array]], Given]


def _merger(module: ModuleType, case: Entry, given: Given, params: dict[str, Array]) -> Given:
    merger = module.MERGERS[case["function"]](**case["config"])
    if params:
        merger.load_params(params)
    if hasattr(merger, "to"):
        merger = merger.to(given["x"].device)
    merged = merger(given.pop("x"), **given)
    results = _fields(merged.plan) | {"tokens": merged.tokens, "size": merged.size}
    return results | {"unmerged": merged.plan.unmerge(merged.tokens)}


def _fields(plan: Any) -> Given:
    return {name: getattr(plan, name) for name in ("assignment", "indices", "weights", "mask") if hasattr(plan, name)}


def _make_plan(module: ModuleType, given: Given, tokens_in: int, tokens_out: int | None, prefix: str = "") -> Any:
    mask = given.get(f"{prefix}mask")
    if f"{prefix}assignment" in given:
        return module.PartitionPlan(given[f"{prefix}assignment"], tokens_out, mask)
    if f"{prefix}indices" in given:
        return module.SelectionPlan(given[f"{prefix}indices"], mask, tokens_in)
    return module.DensePlan(given[f"{prefix}weights"], mask)


def _plan(module: ModuleType, case: Entry, given: Given, params: dict[str, Array]) -> Given:
    x, size = given["x"], given.get("size")
    plan = _make_plan(module, given, x.shape[1], case["config"].get("num_tokens_out"))
    tokens = plan.merge(x, size)
    results = {"matrix": plan.matrix(size), "share": plan.share(), "tokens": tokens}
    return results | {"size": plan.merge_size(size), "unmerged": plan.unmerge(tokens)}


def _compose(module: ModuleType, case: Entry, given: Given, params: dict[str, Array]) -> Given:
    n, m, p = case["config"]["num_tokens"]
    size = given.get("size")
    first, second = _make_plan(module, given, n, m, "first_"), _make_plan(module, given, m, p, "second_")
    composed = module.compose(first, second, size=size)
    return _fields(composed) | {"matrix": composed.matrix(size)}


def _initial(module: ModuleType, case: Entry, given: Given, params: dict[str, Array]) -> Given:
    first: Given = module.MERGERS["patch_merger"](**case["config"]).params()
    return {name: module.from_numpy(np.asarray(value)) for name, value in first.items()}


def _call(room: str, name: str, result: str) -> Function:
    """A function of a room of the backend, by name."""

    def run(module: ModuleType, case: Entry, given: Given, params: dict[str, Array]) -> Given:
        return {result: getattr(getattr(module, room), name)(**given, **case["config"])}

    return run


FUNCTIONS: dict[str, Function] = {
    **dict.fromkeys(MERGERS, _merger),
    **dict.fromkeys(("partition", "selection", "dense"), _plan),
    "compose": _compose,
    "patch_merger_initial": _initial,
    "attention_weights": _call("attention", "attention_weights", "weights"),
    "attention": _call("attention", "attention", "values"),
    "mean_pool": _call("pooling", "mean_pool", "pooled"),
    **{
        name: _call("information_bottleneck", name, result)
        for name, result in (
            ("cluster_scores", "scores"),
            ("estimate_q", "q"),
            ("ib_bound", "bound"),
            ("mutual_information", "information"),
            ("mask_scores", "scores"),
            ("ib_gradient", "gradient"),
        )
    },
}
