"""What the cases must give: the spec in float64, on inputs that every precision holds exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tokenmerge.conformance.vectors.vector import Array, Vector
from tokenmerge.spec import attention, batch, information_bottleneck, pooling
from tokenmerge.spec import plan as spec
from tokenmerge.spec.shared.initial import initial_queries

KINDS = ("assignment", "indices", "weights")


def expected(vector: Vector) -> dict[str, Array]:
    """The results by name: float64, int64 or bool; zeros in the samples that are not specified.

    >>> from tokenmerge.conformance.vectors.cases.tome import VECTORS
    >>> expected(VECTORS[0])["assignment"]
    array([[0, 1, 2, 3, 4]])
    """
    with np.errstate(all="ignore"):  # NaN in samples that are not specified
        results = FUNCTIONS[vector.function](vector)
    for name, array in results.items():
        if vector.samples is not None:
            other = np.setdiff1d(np.arange(len(array)), vector.samples)
            array[other] = 0
        results[name] = array.astype({"f": np.float64, "i": np.int64, "b": bool}[array.dtype.kind])
    return results


def _merger(vector: Vector) -> dict[str, Array]:
    made = batch.MERGERS[vector.function](**vector.config)
    if vector.params:
        made.load_params(vector.params)
    given = vector.arguments()
    merged = made(given.pop("x"), **given)
    results = _fields(merged.plan) | {"tokens": merged.tokens, "size": merged.size}
    if "PLAN-4" in vector.rules or "weights" in results:  # for a hard plan the way back is one gather: a few will do
        results["unmerged"] = merged.plan.unmerge(merged.tokens)
    return results


def _fields(plan: batch.BatchPlan) -> dict[str, Array]:
    """What a plan stores, by name."""
    fields = {name: getattr(plan, name) for name in KINDS if hasattr(plan, name)}
    return fields if plan.mask is None else fields | {"mask": plan.mask}


def given_plan(vector: Vector, tokens_in: int, tokens_out: int, prefix: str = "") -> batch.BatchPlan:
    """A plan that is among the inputs."""
    given = vector.arguments()
    kind = next(kind for kind in KINDS if prefix + kind in given)
    array, mask = given[prefix + kind], given.get(prefix + "mask")
    plans: list[spec.Plan] = []
    for i, row in enumerate(array):
        own = None if mask is None else mask[i]
        if kind == "assignment":
            plans.append(spec.PartitionPlan(row, tokens_out, own))
        elif kind == "indices":
            plans.append(spec.SelectionPlan(row, own, tokens_in))
        else:
            plans.append(spec.DensePlan(row, own))
    return batch.BatchPlan(tuple(plans), plans[0])


def _plan(vector: Vector) -> dict[str, Array]:
    given = vector.arguments()
    x, size = given["x"], given.get("size")
    plan = given_plan(vector, x.shape[1], vector.config.get("num_tokens_out", 0))
    tokens = plan.merge(x, size)
    return {
        "matrix": plan.matrix(size),
        "share": plan.share(),
        "tokens": tokens,
        "size": plan.merge_size(size),
        "unmerged": plan.unmerge(tokens),
    }


def two_plans(vector: Vector) -> tuple[batch.BatchPlan, batch.BatchPlan]:
    """The plans of the case of a composition."""
    n, m, p = vector.config["num_tokens"]
    return given_plan(vector, n, m, "first_"), given_plan(vector, m, p, "second_")


def _compose(vector: Vector) -> dict[str, Array]:
    size = vector.arguments().get("size")
    composed = batch.compose(*two_plans(vector), size)
    return _fields(composed) | {"matrix": composed.matrix(size)}


def _initial(vector: Vector) -> dict[str, Array]:
    config = vector.config
    queries = initial_queries(config["num_tokens_out"], config["dim"], config["seed"])
    return {"queries": queries, "scale": np.ones(config["dim"]), "bias": np.zeros(config["dim"])}


def _each(name: str, function: Callable[..., Any], *shared: str) -> Callable[[Vector], dict[str, Array]]:
    """A function of one sample over a batch; `shared` arguments are the same for all samples."""

    def run(vector: Vector) -> dict[str, Array]:
        given = vector.arguments()
        if "labels" in given:
            given["label"] = given.pop("labels")
        count = len(next(iter(given.values())))
        rows = [
            function(**{key: a if key in shared else a[i] for key, a in given.items()}, **vector.config)
            for i in range(count)
        ]
        return {name: np.stack(rows)}

    return run


def _once(name: str, function: Callable[..., Any]) -> Callable[[Vector], dict[str, Array]]:
    """A function of all samples together."""
    return lambda vector: {name: np.asarray(function(**vector.arguments(), **vector.config))}


FUNCTIONS: dict[str, Callable[[Vector], dict[str, Array]]] = {
    **dict.fromkeys(batch.MERGERS, _merger),
    **dict.fromkeys(("partition", "selection", "dense"), _plan),
    "compose": _compose,
    "patch_merger_initial": _initial,
    "attention_weights": _each("weights", attention.attention_weights),
    "attention": _each("values", attention.attention),
    "mean_pool": _each("pooled", pooling.mean_pool),
    "cluster_scores": _once("scores", information_bottleneck.cluster_scores),
    "estimate_q": _once("q", information_bottleneck.estimate_q),
    "ib_bound": _once("bound", information_bottleneck.ib_bound),
    "mutual_information": _once("information", information_bottleneck.mutual_information),
    "mask_scores": _each("scores", information_bottleneck.mask_scores, "centroids"),
    "ib_gradient": _each("gradient", information_bottleneck.ib_gradient, "centroids", "q"),
}
