"""How close the decisions of a case are, and how far rounding can go: what an implementer may rely on.

A margin is the distance between what was chosen and the runner-up, in float64: of similarities for ToMe, of distances
on the cumulated shares (or of perturbed logarithms) for ATS. The rounding beside it is the error that float32 can make
in that difference. A margin of 0 is a tie; it is only allowed where the arithmetic is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from tokenmerge.conformance.ats import released_points, scores
from tokenmerge.conformance.rounding import Rounded
from tokenmerge.conformance.tome import normalize
from tokenmerge.conformance.vectors.vector import Array, Vector
from tokenmerge.spec.shared.constants import GUMBEL_FLOOR
from tokenmerge.spec.shared.schedule import tokens_removed

WORK = "float32"


@dataclass
class Decisions:
    """What was decided in a case.

    Attributes:
        exact: whether all arithmetic up to the decisions is exact, in every precision.
        margins: for every kind of decision, margins and what rounding can do to them, one pair per decision.
    """

    exact: bool = True
    margins: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def closest(self) -> dict[str, dict[str, float]]:
        """For every kind the smallest margin and the largest rounding; 0 where the arithmetic is exact."""
        return {
            kind: {"margin": min(m for m, _ in pairs), "rounding": 0.0 if self.exact else max(e for _, e in pairs)}
            for kind, pairs in self.margins.items()
            if pairs
        }

    def choose(self, kind: str, cost: Rounded, allowed: Array | None = None) -> None:
        """Every row takes its cheapest entry."""
        errors = np.broadcast_to(cost.error, cost.value.shape)
        for row, error in zip(np.where(True if allowed is None else allowed, cost.value, np.inf), errors, strict=True):
            best = np.argsort(row, kind="stable")[:2]
            if np.isfinite(row[best]).sum() == 2:
                self.margins.setdefault(kind, []).append((float(row[best[1]] - row[best[0]]), float(error[best].sum())))

    def rank(self, kind: str, cost: Rounded, first: int, second: int) -> None:
        """Entry `first` comes before entry `second`."""
        self.margins.setdefault(kind, []).append(
            (float(cost.value[second] - cost.value[first]), float(cost.error[second] + cost.error[first]))
        )

    def require(self, *arrays: Array) -> None:
        """The decisions are exact only if these intermediate results fit in float16."""
        with np.errstate(over="ignore"):
            self.exact &= all(bool((array.astype(np.float16) == array).all()) for array in arrays)

    def require_powers_of_two(self, array: Array) -> None:
        """The decisions are exact only if these divisors are powers of two, or zero."""
        self.exact &= bool(np.isin(np.frexp(np.abs(array))[0], (0.0, 0.5)).all())


def decisions(vector: Vector) -> Decisions | None:
    """What is decided in a case; None where the merger decides nothing."""
    if vector.function not in MARGINS:
        return None
    made = Decisions()
    count = len(vector.inputs["x"])
    for i in range(count) if vector.samples is None else vector.samples:
        mask = vector.inputs["mask"][i] if "mask" in vector.inputs else np.ones(vector.inputs["x"].shape[1], bool)
        with np.errstate(all="ignore"):  # NaN in the padding
            MARGINS[vector.function](vector, made, i, mask)
    if not any(made.margins.values()):
        made.exact = True  # nothing to choose from
    return made


def _tome(vector: Vector, made: Decisions, i: int, mask: Array) -> None:
    config, real = vector.config, np.flatnonzero(mask)
    n, protected = len(real), config["protected"]
    metric = vector.float64("metric" if "metric" in vector.inputs else "x")[i][real]
    m = normalize(Rounded.exact(metric, WORK))
    position = np.arange(n)
    receivers = position[(position >= protected) & (position % 2 == 1)]
    sources = position[(position >= protected) & (position % 2 == 0)]
    if config["matching"] == "kth":
        ends = np.arange(protected + config["k"] - 1, n, config["k"])
        sources = np.setdiff1d(np.arange(protected, protected + len(ends) * config["k"]), ends)
        receivers = ends
    elif (removed := tokens_removed(n, config["r"], protected, config["matching"])) == 0:
        return
    elif config["matching"] == "random":
        shuffled = np.array([np.searchsorted(real, p) for p in vector.inputs["permutation"][i] if mask[p]], int)
        shuffled = shuffled[shuffled >= protected]
        sources, receivers = shuffled[:removed], shuffled[removed:]
    if len(sources) == 0:
        return

    cost = -(m[sources] @ m[receivers].T)
    with_direction = np.isfinite(metric).all(axis=1) & metric.any(axis=1)
    made.require_powers_of_two(np.sqrt((metric[with_direction] ** 2).sum(axis=1)))
    made.require(m.value, cost.value)
    if config["matching"] != "bipartite":
        made.choose("partner", cost)
        return
    at = cost.value.argmin(axis=1)
    best = Rounded(cost.value.min(axis=1), cost.error[np.arange(len(at)), at], cost.dtype)
    ranking = np.argsort(best.value, kind="stable")
    made.choose("partner", cost[ranking[:removed]])
    if removed < len(ranking):
        made.rank("ranking", best, ranking[removed - 1], ranking[removed])
    if config["order"] == "score":
        for first, second in pairwise(ranking[removed:]):
            made.rank("ranking", best, first, second)


def _ats(vector: Vector, made: Decisions, i: int, mask: Array) -> None:
    config, real = vector.config, mask[1:]
    k = config["max_tokens"]
    if not real.any():
        return
    attn, value = (Rounded.exact(vector.float64(name)[i], WORK) for name in ("attn", "value"))
    significance = scores(attn, value, config["score"], real)
    lengths = np.sqrt((value.value[:, 1:][:, real] ** 2).sum(axis=(0, 2) if config["score"] == "concat" else 2))
    made.require_powers_of_two(lengths)
    if significance.value.sum() == 0 and config["sampling"] != "gumbel":
        significance = Rounded.exact(real * 1.0, WORK)
    total = significance.sum(axis=0, keepdims=True)
    made.require_powers_of_two(total.value)
    if config["sampling"] == "gumbel":
        probability = significance / (total + GUMBEL_FLOOR)
        made.exact = False
        made.choose(
            "chosen",
            -((probability + GUMBEL_FLOOR).log()[None] + Rounded.exact(vector.float64("noise")[i], WORK)),
            real,
        )
        return
    if config["sampling"] == "released":
        if real.sum() > 1:
            cost, _ = released_points(significance[np.flatnonzero(real)], k)
            made.require(significance.value, (significance / total).value, cost.value)
            made.choose("chosen", cost)
        return
    cdf = (significance / total).cumsum()
    points = (2 * np.arange(1, k + 1) - 1) / (2 * k)
    u = Rounded(points, 2.0**-24 * points, WORK)
    if "uniforms" in vector.inputs:
        u = Rounded.exact(vector.float64("uniforms")[i], WORK)
    distance = cdf[None, :] - u[:, None]
    made.require(significance.value, cdf.value, u.value, distance.value)
    made.choose("chosen", Rounded(np.abs(distance.value), distance.error, WORK), significance.value > 0)


MARGINS = {"tome": _tome, "ats": _ats}  # of the mergers that decide
