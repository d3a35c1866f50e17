"""How far a correct result may be from the expected one: from the inputs to the output, in any precision.

The formulas are those of the spec, written with `Rounded` numbers (`conformance/rounding.py`). Unlike the certificates
of the suite, which take a backend's own plan as given, these bounds carry the error of the weights on to tokens, sizes
and the way back. Half precision works in float32 and rounds what it gives out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tokenmerge.conformance import plan as laws
from tokenmerge.conformance.ltm import pooling_prior
from tokenmerge.conformance.patch_merger import layer_norm
from tokenmerge.conformance.rounding import Rounded, softmax
from tokenmerge.conformance.vectors.expected import given_plan, two_plans
from tokenmerge.conformance.vectors.function_bounds import FUNCTIONS as ELEMENTARY
from tokenmerge.conformance.vectors.vector import Array, Vector
from tokenmerge.spec import plan as spec
from tokenmerge.spec.mergers import MERGERS
from tokenmerge.spec.shared.schedule import ltm_tokens_out

Results = dict[str, Rounded]


def bounds(vector: Vector, expected: dict[str, Array], dtype: str) -> Results:
    """Every floating-point result with the error that an implementation in `dtype` may make.

    Args:
        vector: the case.
        expected: its results, for the decisions in them.
        dtype: of the inputs.
    """
    if vector.function in ELEMENTARY:
        return ELEMENTARY[vector.function](vector, dtype)
    if vector.function == "patch_merger_initial":
        return {name: Rounded.exact(array, dtype) for name, array in expected.items()}
    if vector.function == "compose":
        return _compose(vector, dtype)
    count, tokens_in = vector.inputs["x"].shape[:2]
    size = vector.arguments().get("size", np.ones((count, tokens_in)))
    rows = []
    for i in range(count) if vector.samples is None else vector.samples:
        w, u, x = MATRICES[vector.function](vector, expected, i, dtype)
        rows.append(_laws(w, u, x, size[i], dtype) | _weights(vector.function, w, u))
    if not rows:
        return {name: Rounded.exact(array, dtype) for name, array in expected.items() if array.dtype.kind == "f"}
    return {name: stack([row[name] for row in rows]) for name in rows[0]}


def stack(rows: list[Rounded]) -> Rounded:
    """Samples as a batch."""
    errors = [np.broadcast_to(row.error, row.value.shape) for row in rows]
    return Rounded(np.stack([row.value for row in rows]), np.stack(errors), rows[0].dtype)


def _weights(function: str, w: Rounded, u: Rounded) -> Results:
    if function in MERGERS:
        return {} if MERGERS[function].decides else {"weights": w}
    return {"matrix": w, "share": u}


def _laws(w: Rounded, u: Rounded, x: Rounded, size: Array, dtype: str) -> Results:
    """Tokens, sizes and the way back, one after the other."""
    tokens = laws.stored(_copies(w), laws.apply(w, x), dtype)
    return {
        "tokens": tokens,
        "size": laws.apply(u.T, Rounded.exact(size[:, None], dtype))[:, 0],
        "unmerged": laws.stored(_copies(u), laws.apply(u, tokens), dtype),
    }


def _copies(matrix: Rounded) -> Array:
    """Rows that are all zero or have nothing but an exact one: what they give needs no rounding."""
    count = np.count_nonzero(matrix.value, axis=1)
    exact = np.broadcast_to(matrix.error, matrix.value.shape).max(axis=1, initial=0) == 0
    return exact & (count == matrix.value.sum(axis=1)) & (count <= 1)


def _dense(w: Rounded) -> tuple[Rounded, Rounded]:
    """A matrix and its share."""
    return w, (w / w.sum(axis=0, keepdims=True)).T


Matrices = tuple[Rounded, Rounded, Rounded]


def _hard(vector: Vector, expected: dict[str, Array], i: int, dtype: str) -> Matrices:
    """A merger that decided: its plan is exact, given the decisions."""
    x = vector.float64("x")
    n, p = x.shape[1], expected["tokens"].shape[1]
    mask = expected["mask"][i] if "mask" in expected else None
    plan: spec.Plan
    if "assignment" in expected:
        plan = spec.PartitionPlan(expected["assignment"][i], p, mask)
    else:
        plan = spec.SelectionPlan(expected["indices"][i], mask, n)
    return _of_plan(vector, plan, i, dtype)


def _given(vector: Vector, expected: dict[str, Array], i: int, dtype: str) -> Matrices:
    n, p = vector.inputs["x"].shape[1], expected["tokens"].shape[1]
    return _of_plan(vector, given_plan(vector, n, p).samples[i], i, dtype)


def _of_plan(vector: Vector, plan: spec.Plan, i: int, dtype: str) -> Matrices:
    size = vector.arguments()["size"][i] if "size" in vector.inputs else np.ones(plan.num_tokens_in)
    x = Rounded.exact(vector.float64("x")[i], dtype)
    return laws.weights(plan, size, dtype), laws.share(plan, dtype), x


def _real(vector: Vector, i: int) -> Array:
    x = vector.inputs["x"]
    return vector.inputs["mask"][i] if "mask" in vector.inputs else np.ones(x.shape[1], bool)


def _patch_merger(vector: Vector, expected: dict[str, Array], i: int, dtype: str) -> Matrices:
    config, mask = vector.config, _real(vector, i)
    params = {name: Rounded.exact(array, dtype) for name, array in vector.params.items()}
    x = Rounded.exact(np.where(mask[:, None], vector.float64("x")[i], 0), dtype)
    if config["normalize"]:
        x = _layer_norm(x, params["scale"], params.get("bias"), config["eps"])
    factor = config["dim"] ** -0.5 if config["logit_scale"] is None else config["logit_scale"]
    logits = (params["queries"] @ x.T) * factor
    logits = Rounded(np.where(mask, logits.value, -np.inf), np.where(mask, logits.error, 0), logits.dtype)
    return *_dense(softmax(logits)), x


def _layer_norm(x: Rounded, scale: Rounded, bias: Rounded | None, eps: float) -> Rounded:
    """LayerNorm; without eps a constant token becomes the bias, exactly: its entries, and so their mean, are exact."""
    normalized = layer_norm(x, scale, bias, eps)
    if eps > 0:
        return normalized
    constant = (x.value == x.value[:, :1]).all(axis=1, keepdims=True)
    value = np.where(constant, 0.0 if bias is None else bias.value, normalized.value)
    return Rounded(value, np.where(constant, 0.0, normalized.error), normalized.dtype)


def _ltm(vector: Vector, expected: dict[str, Array], i: int, dtype: str) -> Matrices:
    config, x, mask = vector.config, vector.float64("x")[i], _real(vector, i)
    protected, ratio = config["protected"], config["compression_ratio"]
    first, rest = np.flatnonzero(mask)[:protected], np.flatnonzero(mask)[protected:]
    columns = ltm_tokens_out(len(rest), ratio)
    if "prior" in vector.inputs:
        given = vector.float64("prior")
        prior = Rounded.exact((given if given.ndim == 2 else given[i])[rest - protected, :columns], dtype)
    else:
        prior = pooling_prior(len(rest), columns, config["prior_smoothing"], dtype)
    tokens, weight = Rounded.exact(x[rest], dtype), Rounded.exact(vector.params["weight"], dtype)
    step = (tokens * weight) @ (prior.T @ tokens).T / Rounded.exact(x.shape[1], dtype).sqrt()
    mixed = softmax((prior.log() + step).T)
    w = Rounded.exact(np.zeros(expected["weights"].shape[1:]), dtype)
    w.value[np.arange(len(first)), first] = 1
    block = np.ix_(protected + np.arange(columns), rest)
    w.value[block], w.error[block] = mixed.value, mixed.error
    return *_dense(w), Rounded.exact(np.where(mask[:, None], x, 0), dtype)


def _compose(vector: Vector, dtype: str) -> Results:
    """The product of two matrices, or of the composed plan's own quotients: as many roundings again."""
    first, second = two_plans(vector)
    given = vector.arguments().get("size", np.ones((len(first.samples), first.num_tokens_in)))
    rows = []
    for one, two, size in zip(first.samples, second.samples, given, strict=True):
        product = laws.weights(two, one.merge_size(size), dtype) @ laws.weights(one, size, dtype)
        rows.append(Rounded(product.value, 2 * product.error, product.dtype))
    matrix = stack(rows)
    dense = any(name.endswith("weights") for name in vector.inputs)
    return {"matrix": matrix, "weights": matrix} if dense else {"matrix": matrix}


MATRICES: dict[str, Callable[[Vector, dict[str, Array], int, str], Matrices]] = {
    "tome": _hard,
    "ats": _hard,
    "patch_merger": _patch_merger,
    "ltm": _ltm,
    "partition": _given,
    "selection": _given,
    "dense": _given,
}
