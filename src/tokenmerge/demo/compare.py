"""A stage in a backend: how it agrees with the spec, how long it takes, what its plan is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from tokenmerge.backends import get_backend
from tokenmerge.backends.registry import own_way
from tokenmerge.conformance.case import Case, context, give, make_merger, run_case, to_numpy
from tokenmerge.conformance.judge import judge
from tokenmerge.demo.stages import DTYPE, Stage

Array = np.ndarray[Any, Any]

REPEATS = 9


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        stage: what was done; backend: where.
        tokens_in, tokens_out: how many tokens, padding not counted.
        decisions_equal: whether every decision is the spec's; None where nothing is decided.
        certified: whether a decision that is not is right within the rounding of its inputs.
        budget_used: the largest difference from the spec, 1 being the largest that rounding explains.
        milliseconds: median of a few calls, after the first.
        matrix: `W (P,N)` of the plan of all layers together.
    """

    stage: Stage
    backend: str
    tokens_in: int
    tokens_out: int
    decisions_equal: bool | None
    certified: bool
    budget_used: float
    milliseconds: float
    matrix: Array

    @property
    def agrees(self) -> bool:
        return self.certified and self.budget_used <= 1  # not a number is not <= 1


def compare(stage: Stage, cases: Sequence[Case], backend: str) -> Row:
    """Judge a backend on every layer by itself, given the spec's inputs; then run and time the layers together."""
    module = get_backend(backend)
    verdicts = [judge(case, run_case(case, module, DTYPE)) for case in cases]
    decisions = [verdict.decisions_equal for verdict in verdicts if verdict.decisions_equal is not None]

    with context(module, DTYPE):
        call = _ready(stage, cases[0], module)
        merged = call()
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        matrix = to_numpy(module, merged.plan.matrix())[0]
        slots = None if merged.mask is None else to_numpy(module, merged.mask)
    return Row(
        stage,
        backend,
        tokens_in=matrix.shape[1],
        tokens_out=matrix.shape[0] if slots is None else int(slots.sum()),
        decisions_equal=all(decisions) if decisions else None,
        certified=all(verdict.certified for verdict in verdicts),
        budget_used=float(np.max([verdict.budget_used for verdict in verdicts])),
        milliseconds=1000 * statistics.median(seconds),
        matrix=matrix,
    )


def _ready(stage: Stage, case: Case, module: ModuleType) -> Callable[[], Any]:
    """The stage as a call that returns when the result is there, compiled where the framework compiles."""
    merger = make_merger(case, module)
    inputs = give(case, module, DTYPE)

    def layers(inputs: dict[str, Any]) -> Any:
        merged = merger(**inputs)
        plan = merged.plan
        for _ in range(1, stage.layers):
            merged = merger(merged.tokens, size=merged.size)
            plan = module.compose(plan, merged.plan)
        return merged._replace(plan=plan)

    run = own_way(module)(layers)

    def call() -> Any:
        merged = run(inputs)
        module.to_numpy(merged.tokens)  # a framework that computes in the background waits here
        return merged

    return call
