"""What a plan, a function or a refused call leaves behind, and what threads do to one another: nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.case import Case, context, give, make_merger, read, to_numpy
from tokenmerge.conformance.checks.check import Function, check, check_each
from tokenmerge.conformance.checks.doors import plan_of
from tokenmerge.conformance.checks.independence import same
from tokenmerge.conformance.checks.state import equal, other
from tokenmerge.conformance.draws import seeds
from tokenmerge.conformance.mergers import MERGERS
from tokenmerge.conformance.strategies import any_cases
from tokenmerge.conformance.subject import Mismatch, Subject
from tokenmerge.conformance.verdict import exactly

Array = np.ndarray[Any, Any]
THREADS = 4


def any_case(subject: Subject, data: Any, merger: str) -> Case:
    """A case of a shape that no cache has seen, where shapes cost nothing; with all arrays that a call can take."""
    most = dict(MERGERS[merger].most_inputs)
    if subject.compiles or subject.slow:
        case: Case = data.draw(subject.cases(merger, "generic", fixed=most))
    else:
        case = data.draw(any_cases(merger, sized=True, **most))
    return case


@check_each(
    "plan-remembers-nothing",
    1,
    "A plan answers by the sizes and tokens of each call, whatever it was asked before; what is done to a share that "
    "it gave does not change it.",
    "CALL-3",
    share=0.2,
    shrinks=False,
)
def plan_remembers_nothing(subject: Subject, data: Any, merger: str) -> None:
    module, dtype = subject.module, subject.dtype
    case = any_case(subject, data, merger)
    b, n, _ = case.inputs["x"].shape
    rng = np.random.default_rng(data.draw(seeds, label="seed of the sizes"))
    case.inputs["size"] = rng.integers(1, 9, (b, n)) * 1.0
    changed = other(case)
    with context(module, dtype):
        one, two = (give(each, module, dtype, subject.device) for each in (case, changed))

        def answers(plan: Any, arrays: dict[str, Any]) -> dict[str, Array]:
            given = {"merge": (arrays["x"], arrays["size"]), "merge_size": (arrays["size"],)}
            given |= {"matrix": (arrays["size"],), "share": ()}
            found = {name: to_numpy(module, getattr(plan, name)(*those)) for name, those in given.items()}
            return found | {"merge without sizes": to_numpy(module, plan.merge(arrays["x"]))}

        wanted = answers(plan_of(case, module, one, subject.device), two)
        plan = plan_of(case, module, one, subject.device)
        answers(plan, one)
        changed_share(plan.share())
        got = answers(plan, two)
    for name, want in wanted.items():
        subject.demand(case, exactly(f"plan.{name}, asked before with other arrays", got[name], want, "CALL-3"))


def changed_share(array: Any) -> None:
    """Add to an array where it can be changed."""
    try:
        array += 1
    except (TypeError, ValueError):  # arrays that never change
        return


# the argument of a bad call, and what is wrong with it
BAD: dict[str, Callable[[Array], Array]] = {
    "mask": lambda x: np.ones((len(x), x.shape[1] + 1), bool),
    "mask of numbers": lambda x: np.ones(x.shape[:2], np.float32),
    "size": lambda x: np.ones((len(x), x.shape[1] + 1), np.float32),
}


@check_each(
    "refused-call",
    1,
    "A call that is refused leaves its arrays, earlier results and later calls as they were.",
    "CALL-2",
    "CALL-3",
    share=0.15,
    shrinks=False,
)
def refused_call(subject: Subject, data: Any, merger: str) -> None:
    module, dtype = subject.module, subject.dtype
    case = any_case(subject, data, merger)
    with context(module, dtype):
        made = make_merger(case, module, subject.device)
        arrays = give(case, module, dtype, subject.device)
        seen = {name: to_numpy(module, array) for name, array in arrays.items()}
        kept = made(**arrays)
        first = read(kept, seen, arrays.get("size"), module, dtype)
        for what, build in BAD.items():
            name = what.partition(" ")[0]
            bad = module.from_numpy(build(case.inputs["x"]), None, subject.device)
            try:
                made(**(arrays | {name: bad}))
            except Exception:  # which one is for other checks
                pass
            else:
                raise Mismatch(f"raised nothing for a bad {what}, but should refuse it [{case}]", rules=("CALL-1",))
            for each, array in arrays.items():
                got = to_numpy(module, array)
                subject.demand(case, exactly(f"`{each}` after a call with a bad {what}", got, seen[each], "CALL-2"))
            later = read(kept, seen, arrays.get("size"), module, dtype)
            subject.demand(case, *same(later, first, why=f"kept over a call with a bad {what}", rules=("CALL-3",)))
        again = read(made(**arrays), seen, arrays.get("size"), module, dtype)
    subject.demand(case, *same(again, first, why="of a call after refused ones", rules=("CALL-3",)))


@check_each(
    "threads",
    1,
    "One merger called by several threads at once gives each what it gives alone.",
    "CALL-3",
    share=0.05,
    shrinks=False,
)
def threads(subject: Subject, data: Any, merger: str) -> None:
    module, dtype = subject.module, subject.dtype
    case = any_case(subject, data, merger)
    cases = [case]
    while len(cases) < THREADS:
        cases.append(other(cases[-1]))
    wanted = [subject.run(each) for each in cases]
    with context(module, dtype):
        made = make_merger(case, module, subject.device)
        arrays = [give(each, module, dtype, subject.device) for each in cases]
    found: list[Any] = [None] * THREADS
    barrier = threading.Barrier(THREADS)

    def work(i: int) -> None:
        with context(module, dtype):
            barrier.wait()
            found[i] = [made(**arrays[i]) for _ in range(3)]

    started = [threading.Thread(target=work, args=(i,)) for i in range(THREADS)]
    # what a framework sets for the whole process is set before they start: each of them puts back what it found
    with context(module, dtype):
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
        for i, results in enumerate(found):
            if results is None:
                raise Mismatch(f"a call in thread {i} raised, but should return a result [{case}]", rules=("CALL-3",))
            seen = {name: to_numpy(module, array) for name, array in arrays[i].items()}
            for result in results:
                outcome = read(result, seen, arrays[i].get("size"), module, dtype)
                subject.demand(case, *equal(outcome, wanted[i], f"in thread {i}"))


# functions besides the mergers: room, arrays by name and letter of each axis, and what comes after them
FUNCTIONS: dict[str, tuple[str, str, dict[str, str]]] = {
    "attention-weights-memory": ("attention", "attention_weights", {"query": "bhmd", "key": "bhnd"}),
    "attention-values-memory": ("attention", "attention", {"query": "bhmd", "key": "bhnd", "value": "bhnd"}),
    "attention-pooling-memory": ("pooling", "mean_pool", {"x": "bnd"}),
    "information_bottleneck-memory": (
        "information_bottleneck",
        "mask_scores",
        {"z": "bnd", "mask": "bnm", "centroids": "amd"},
    ),
    "information_bottleneck-cluster-memory": (
        "information_bottleneck",
        "cluster_scores",
        {"f": "bd", "centroids": "ad"},
    ),
}


def _remembers(room: str, function: str, axes: dict[str, str]) -> Function:
    def run(subject: Subject, data: Any) -> None:
        module, dtype = subject.module, subject.dtype
        most = 3 if subject.compiles else 20
        lengths = {axis: data.draw(st.integers(2, most), label=axis) for axis in "bhmnda"}
        rng = np.random.default_rng(data.draw(seeds, label="seed"))
        rest = (1.5,) if function == "cluster_scores" else ()
        with context(module, dtype):
            own = getattr(getattr(module, room), function)

            def arrays() -> list[Any]:
                shapes = [tuple(lengths[axis] for axis in letters) for letters in axes.values()]
                return [module.from_numpy(rng.standard_normal(shape), dtype, subject.device) for shape in shapes]

            one, two = arrays(), arrays()
            before = [to_numpy(module, array).copy() for array in one]
            kept = own(*one, *rest)
            first = to_numpy(module, kept).copy()
            second = to_numpy(module, own(*two, *rest)).copy()
            after = [
                ("the first result, kept", kept, first),
                ("the first call again", own(*one, *rest), first),
                ("the second call again", own(*two, *rest), second),
                *((f"`{name}`", array, was) for name, array, was in zip(axes, one, before, strict=True)),
            ]
            found = [(what, to_numpy(module, array), want) for what, array, want in after]
        for what, got, want in found:
            finding = exactly(f"{what}, after calls with other arrays", got, want)
            if not finding.ok:
                rule = "CALL-2" if what.startswith("`") else "CALL-3"
                raise Mismatch(f"{finding.message} [{function}, {lengths}, {dtype}]", rules=(rule,))

    return run


for name, (room, function, axes) in FUNCTIONS.items():
    statement = (
        f"A call of `{function}` is changed by no other one, and changes neither its arrays nor earlier results."
    )
    check(name, 1, statement, "CALL-3", "CALL-2", needs=room, share=0.1)(_remembers(room, function, axes))
