"""Certificates for ToMe: a decision is right if it is optimal within the rounding bound of its similarities."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from tokenmerge.conformance.backward import by_groups
from tokenmerge.conformance.bad import FLOAT_MASK, INTEGERS, METRIC, PERMUTATION, SHORT_MASK, SIZE, X
from tokenmerge.conformance.case import Case, Outcome
from tokenmerge.conformance.plan import check_laws
from tokenmerge.conformance.proof import Bad, Proof
from tokenmerge.conformance.rounding import Rounded
from tokenmerge.conformance.verdict import Finding, exactly
from tokenmerge.spec.shared.schedule import kth_tokens_out, kth_width, tokens_removed
from tokenmerge.spec.tome import DESCRIPTION

Array = np.ndarray[Any, Any]
ORDER = {"grouped": "TOME-7", "positional": "TOME-8", "score": "TOME-9"}
SPECIAL = {"bipartite": (), "kth": ("TOME-10",), "random": ("TOME-11",)}
COUNT = {"bipartite": ("TOME-1",), "kth": ("TOME-10",), "random": ("TOME-11", "TOME-1")}


def normalize(metric: Rounded) -> Rounded:
    """`m / ||m||` with its error; zero where a vector has no direction."""
    largest = np.abs(metric.value).max(axis=1, keepdims=True, initial=0)
    usable = np.isfinite(largest) & (largest > 0)
    clean = Rounded.exact(np.where(usable, metric.value, 0), metric.dtype)
    scaled = clean / Rounded.exact(np.where(usable, largest, 1), metric.dtype)
    unit = scaled / (scaled * scaled).sum(axis=1, keepdims=True).sqrt()
    return Rounded(np.where(usable, unit.value, 0), np.where(usable, unit.error, 0), unit.dtype)


def certify(case: Case, outcome: Outcome) -> list[Finding]:
    """Structure, decisions and values of an outcome."""
    metric = outcome.inputs.get("metric", outcome.inputs["x"])
    samples = [_Sample(case, outcome, metric, i).findings() for i in range(len(metric))]
    return [*(finding for findings in samples for finding in findings), *check_laws(outcome)]


def differences(case: Case, outcome: Outcome, want: Array) -> tuple[str, ...]:
    """The rules by which assignments differ: who merges, with whom, or where the slots are."""
    matching, order = case.config.get("matching", "bipartite"), case.config.get("order", "grouped")
    if matching != "bipartite":
        return SPECIAL[matching]
    rules = []
    for i, slots in enumerate(outcome.plan["assignment"]):
        real = np.flatnonzero(outcome.inputs["mask"][i]) if "mask" in outcome.inputs else np.arange(len(slots))
        got, wanted = (_partners(row[real]) for row in (slots, want[i]))
        rules += ["TOME-6", "TOME-3"] * (got.keys() != wanted.keys())
        rules += ["TOME-5"] * any(got[a] != wanted[a] for a in got.keys() & wanted.keys())
    return tuple(dict.fromkeys(rules)) or (ORDER[order],)


def _partners(slots: Array) -> dict[int, int]:
    """The odd token that each merged even token shares a slot with."""
    odd = {int(slots[b]): b for b in range(1, len(slots), 2)}
    return {a: odd[int(slots[a])] for a in range(0, len(slots), 2) if int(slots[a]) in odd}


class _Sample:
    """One sample: its real tokens, and the backend's decisions about them, numbered as if they were alone."""

    def __init__(self, case: Case, outcome: Outcome, metric: Array, i: int) -> None:
        config = {"r": None, "protected": 0, "order": "grouped", "matching": "bipartite", "k": None} | case.config
        self.i, self.r, self.protected, self.k = i, config["r"], config["protected"], config["k"]
        self.order, self.matching = config["order"], config["matching"]
        self.special, self.count = SPECIAL[self.matching], COUNT[self.matching]
        mask = outcome.inputs.get("mask")
        self.all = metric.shape[1]
        self.real = np.arange(self.all) if mask is None else np.flatnonzero(mask[i])
        self.padded = mask is not None
        self.n = len(self.real)
        self.got = outcome.plan["assignment"][i]
        self.slots = self.got[self.real]
        self.mask = None if outcome.plan["mask"] is None else outcome.plan["mask"][i]
        self.width = outcome.plan["num_tokens_out"]
        self.m = normalize(Rounded.exact(metric[i][self.real], outcome.precision("metric")))
        if "permutation" in case.inputs:
            rank = {token: place for place, token in enumerate(self.real)}
            self.permutation = np.array([rank[p] for p in case.inputs["permutation"][i] if p in rank], int)

    def findings(self) -> list[Finding]:
        used, width = self._expected_slots()
        found = [exactly(f"plan.num_tokens_out[{self.i}]", self.width, width, *self.count), *self._protected()]
        if self.padded:
            found.append(exactly(f"plan.mask[{self.i}]", self.mask, np.arange(width) < used, "TOME-12"))
            padding = np.setdiff1d(np.arange(self.all), self.real)
            found.append(
                exactly(f"assignment of padding[{self.i}]", self.got[padding], np.full(len(padding), -1), "TOME-12")
            )
        else:
            found.append(exactly(f"plan.mask[{self.i}]", self.mask, None, "TOME-12"))
        filled = np.unique(self.slots)
        found.append(exactly(f"slots in use[{self.i}]", filled.astype(int), np.arange(used), *self.count))
        if any(not each.ok for each in found):
            return found
        if self.matching != "kth" and tokens_removed(self.n, self.r, self.protected, self.matching) == 0:
            return [*found, self._layout(np.arange(self.n), "TOME-1")]
        return [*found, *{"bipartite": self._bipartite, "kth": self._kth, "random": self._random}[self.matching]()]

    def _expected_slots(self) -> tuple[int, int]:
        """Slots in use, and slots."""
        if self.matching == "kth":
            width = kth_width if self.padded else kth_tokens_out
            return kth_tokens_out(self.n, self.k, self.protected), width(self.all, self.k, self.protected)
        removed = tokens_removed(self.n, self.r, self.protected, self.matching)
        return self.n - removed, self.all - tokens_removed(self.all, self.r, self.protected, self.matching)

    def _protected(self) -> list[Finding]:
        """Protected tokens are in front, each alone in its slot."""
        first, others = self.slots[: self.protected], self.slots[self.protected :]
        shared = np.intersect1d(first, others)
        return [
            exactly(f"slots of the protected tokens[{self.i}]", first.astype(int), np.arange(len(first)), "TOME-4"),
            exactly(f"slots that protected tokens share[{self.i}]", shared.astype(int), np.zeros(0, int), "TOME-4"),
        ]

    def _bipartite(self) -> list[Finding]:
        position = np.arange(self.n)
        free = position >= self.protected
        a, b = position[free & (position % 2 == 0)], position[free & (position % 2 == 1)]
        merged, unmerged, target = self._matched(a, b)
        layout = self._laid_out(a, b)
        if not layout.ok and self._laid_out(b, a).ok:
            return [replace(layout, rules=("TOME-3",))]  # as if odd tokens had looked for even ones
        removed = tokens_removed(self.n, self.r, self.protected, self.matching)
        count = exactly(f"even tokens merged into odd ones[{self.i}]", len(merged), removed, "TOME-3")
        if not count.ok:
            return [count]

        similarity = self.m[a] @ self.m[b].T
        best_low, best_high = similarity.low.max(axis=1), similarity.high.max(axis=1)
        row = {token: place for place, token in enumerate(a)}
        rows = [row[token] for token in merged]
        found = [count, self._optimal(similarity, a, b, rows, target, "TOME-5")]
        # a token that is left out may be ranked wrongly, or have found no partner at all
        back = [row[token] for token in unmerged]
        found.append(self._ranked("merged before", a, best_low, best_high, rows, back, "TOME-6", "TOME-3"))
        if self.order == "score":
            behind = [row[token] for token in unmerged[np.argsort(self.slots[unmerged])]]
            for better, worse in pairwise(behind):
                found.append(self._ranked("in front of", a, best_low, best_high, [better], [worse], "TOME-9"))
        return [*found, layout]

    def _matched(self, a: Array, b: Array) -> tuple[Array, Array, Array]:
        """Tokens of `a` that share the slot of a token of `b`, those that do not, and the partners of the first."""
        slot_of_b = {int(self.slots[token]): token for token in b}
        merged = np.array([token for token in a if int(self.slots[token]) in slot_of_b], int)
        target = np.array([slot_of_b[int(self.slots[token])] for token in merged], int)
        return merged, np.setdiff1d(a, merged), target

    def _laid_out(self, a: Array, b: Array) -> Finding:
        """Given which tokens of `a` merged with which of `b`, and in order "score" their order, slots are in order."""
        merged, unmerged, target = self._matched(a, b)
        first = list(range(self.protected))
        if self.order == "positional":
            survivors = first + sorted([*unmerged, *b])
        elif self.order == "grouped":
            survivors = [*first, *unmerged, *b]
        else:
            survivors = [*first, *unmerged[np.argsort(self.slots[unmerged])], *b]
        return self._layout(self._assign(survivors, merged, target), ORDER[self.order])

    def _kth(self) -> list[Finding]:
        full = max(self.n - self.protected, 0) // self.k
        end = self.protected + full * self.k
        kept = np.arange(self.protected + self.k - 1, end, self.k)
        sources = np.setdiff1d(np.arange(self.protected, end), kept)
        survivors = [*range(min(self.protected, self.n)), *kept, *range(end, self.n)]
        return self._receivers(sources, kept, survivors)

    def _random(self) -> list[Finding]:
        removed = tokens_removed(self.n, self.r, self.protected, self.matching)
        shuffled = self.permutation[self.permutation >= self.protected]
        sources, remaining = shuffled[:removed], shuffled[removed:]
        return self._receivers(sources, remaining, [*range(self.protected), *remaining])

    def _receivers(self, sources: Array, among: Array, survivors: list[Any]) -> list[Finding]:
        """Sources that each choose the most similar of some tokens."""
        slot_of = {slot: token for slot, token in enumerate(survivors)}
        target = np.array([slot_of[int(self.slots[token])] for token in sources], int)
        wrong = [token for token, to in zip(sources, target, strict=True) if to not in set(among.tolist())]
        if wrong:
            message = f"assignment[{self.i}, {self.real[wrong[0]]}] is the slot of a token that receives nothing"
            return [Finding("receiver", np.inf, self.special, message)]
        found = []
        if len(sources):
            similarity = self.m[sources] @ self.m[among].T
            found.append(self._optimal(similarity, sources, among, list(range(len(sources))), target, *self.special))
        return [*found, self._layout(self._assign(survivors, sources, target), *self.special)]

    def _optimal(self, similarity: Rounded, a: Array, b: Array, rows: list[int], target: Array, *rules: str) -> Finding:
        """Every source's target has a similarity that may be the largest of its row."""
        what = f"similarity to the receiver[{self.i}]"
        if not rows:
            return Finding(what, 0.0, rules)
        column = {token: place for place, token in enumerate(b)}
        columns = [column[token] for token in target]
        value, error = similarity.value[rows], similarity.error[rows]
        best = value.argmax(axis=1)
        line = np.arange(len(rows))
        short = value[line, best] - value[line, columns]
        allowed = error[line, best] + error[line, columns]
        used = np.divide(short, allowed, out=np.zeros_like(short), where=short > 0)
        worst = int(used.argmax())
        if used[worst] <= 1:
            return Finding(what, float(used[worst]), rules)
        source, got, want = (self.real[t] for t in (a[rows[worst]], target[worst], b[best[worst]]))
        message = (
            f"receiver of token {source} in sample {self.i}={got}, but should be {want}, which is more similar by "
            f"{short[worst]:.3g}, more than rounding explains ({allowed[worst]:.3g})"
        )
        return Finding(what, float(used[worst]), (*rules, "TOME-2"), message)

    def _ranked(
        self, what: str, a: Array, low: Array, high: Array, front: list[int], back: list[int], *rules: str
    ) -> Finding:
        """Every row in front may have a maximum at least as large as every row behind."""
        name = f"ranking of the sources[{self.i}]"
        if not front or not back:
            return Finding(name, 0.0, rules)
        middle, error = (low + high) / 2, (high - low) / 2
        worst_front, best_back = min(front, key=lambda row: high[row]), max(back, key=lambda row: low[row])
        short, allowed = middle[best_back] - middle[worst_front], error[best_back] + error[worst_front]
        used = max(0.0, float(short / allowed)) if short > 0 else 0.0
        if used <= 1:
            return Finding(name, used, rules)
        message = (
            f"in sample {self.i} token {self.real[a[worst_front]]} is {what} token {self.real[a[best_back]]}, "
            f"whose best similarity is larger by {short:.3g}, more than rounding explains ({allowed:.3g})"
        )
        return Finding(name, used, (rules[0], "TOME-2", *rules[1:]), message)

    def _assign(self, survivors: list[Any], sources: Array, target: Array) -> Array:
        slots = np.full(self.n, -1)
        slots[np.array(survivors, int)] = np.arange(len(survivors))
        slots[sources] = slots[target]
        return slots

    def _layout(self, want: Array, *rules: str) -> Finding:
        """Given who merged with whom, every slot is where the order says."""
        return exactly(f"assignment[{self.i}]", self.slots.astype(int), want.astype(int), *rules)


# The record


def cases(draw: Any, kind: str, shape: tuple[int, int], mask: Array | None, choice: dict[str, Any]) -> Case:
    """A case of a kind; `choice` has an option each of `SPACE`."""
    from tokenmerge.conformance.draws import (  # only here: certificates need no Hypothesis
        CHANNELS,
        WIDTH,
        seeds,
        tokens,
    )

    n = shape[1]
    matching = choice["matching"]
    config: dict[str, Any] = {"protected": min(choice["protected"], n)}
    if matching == "kth":
        config |= {"matching": "kth", "k": choice["k"]}
    else:
        config["r"] = max(1, n // 4) if choice["r"] == "a quarter" else choice["r"]
        config |= {"matching": "random"} if matching == "random" else {"order": matching}
    inputs = {"x": draw(tokens("generic", (*shape, choice.get("channels", CHANNELS))))}
    inputs["metric"] = draw(tokens(kind, (*shape, choice.get("width", WIDTH)), "metrics"))
    if matching == "random":
        rng = np.random.default_rng(draw(seeds, label="seed of the permutation"))
        inputs["permutation"] = rng.permuted(np.tile(np.arange(n), (shape[0], 1)), axis=1)
    return Case("tome", config, inputs)


SPACE: dict[str, tuple[Any, ...]] = {
    "matching": ("grouped", "positional", "score", "kth", "random"),
    "protected": (0, 1, 2, 5),
    "r": (1, 3, 10**6, "a quarter", 0),
    "k": (2, 3, 7, 1),
}
LEAST = {"r": 2}
BAD: tuple[Bad, ...] = (
    ({"r": -1}, {}),
    ({"r": 1.5}, {}),
    ({"r": True}, {}),
    ({"r": "2"}, {}),
    ({"r": 2, "protected": True}, {}),
    ({"r": 2, "protected": 1.0}, {}),
    ({"r": 2, "order": None}, {}),
    ({"r": 2, "matching": True}, {}),
    ({"matching": "kth", "k": True}, {}),
    ({"matching": "kth", "k": 2.0}, {}),
    ({"matching": "kth", "k": 2, "protected": 7}, {"x": X}),
    ({}, {}),
    ({"r": 2, "protected": -1}, {}),
    ({"r": 2, "protected": 7}, {"x": X}),
    ({"r": 2, "order": "groupd"}, {}),
    ({"r": 2, "matching": "bipartit"}, {}),
    ({"r": 2, "matching": "random", "order": "score"}, {}),
    ({"r": 2, "k": 3}, {}),
    ({"matching": "kth"}, {}),
    ({"matching": "kth", "k": 0}, {}),
    (LEAST, {"x": X[0]}),
    (LEAST, {"x": INTEGERS}),
    (LEAST, {"x": [1.0, 2.0]}),
    (LEAST, {"x": None}),
    (LEAST, {"x": X, "metric": METRIC[:1]}),
    (LEAST, {"x": X, "metric": METRIC[:, :5]}),
    (LEAST, {"x": X, "metric": METRIC[0]}),
    (LEAST, {"x": X, "size": SIZE[:, :5]}),
    (LEAST, {"x": X, "size": PERMUTATION}),
    (LEAST, {"x": X, "mask": SHORT_MASK}),
    (LEAST, {"x": X, "mask": FLOAT_MASK}),
    (LEAST, {"x": X, "permutation": PERMUTATION}),
    ({"r": 2, "matching": "random"}, {"x": X}),
    ({"r": 2, "matching": "random"}, {"x": X, "permutation": SIZE}),
    ({"r": 2, "matching": "random"}, {"x": X, "permutation": PERMUTATION[:, :4]}),
)

PROOF = Proof(
    description=DESCRIPTION,
    certify=certify,
    cases=cases,
    space=SPACE,
    config=LEAST,
    bad=BAD,
    padding="TOME-12",
    most_inputs={"matching": "random"},
    odd={"protected": (0, 1, 3, 9), "r": ("a quarter", 1, 10**6), "k": (2, 3, 33), "width": (1, 17, 261)},
    odd_exact={"width": (4, 64)},
    largest={"r": "a quarter", "protected": 1},
    differences=differences,
    about=lambda case: SPECIAL[case.config.get("matching", "bipartite")],
    differentiable=("x", "size"),
    formula=by_groups,
)
