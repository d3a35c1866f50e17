"""Runs the suite on generated mutants, quickly: what is cheap first, and only as far as the first failure."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tokenmerge.conformance.checks import CHECKS
from tokenmerge.conformance.mutants.generated import EQUIVALENT, HOLES, Generated, generated
from tokenmerge.conformance.runner import run_check
from tokenmerge.conformance.subject import Subject

STAGES = ("built", "quick", "ci")  # where a mutant can die: when it is imported, or at a level
DTYPES = ("float32", "float16", "float64")
LONGEST = 120  # seconds for one check of a mutant, which may never return; none of a correct backend takes as long


@dataclass(frozen=True)
class Fate:
    """What became of a generated mutant.

    Attributes:
        mutant: which one.
        stage: one of `STAGES`, or "survived".
        check: the first check that failed, and its dtype; or the error of the import.
        seconds: that it took.
    """

    mutant: Generated
    stage: str
    check: str
    seconds: float


class _TooLongError(BaseException):  # nothing that catches an Exception catches it
    pass


def fate(mutant: Generated, seed: int | None = None) -> Fate:
    """Run the suite on a mutant until a check fails: level quick in all dtypes, then level ci.

    Of level ci only float32, and other dtypes for changes that are about precision: so a survivor takes seconds.

    >>> fate(generated()["pooling.mean_pool dtype: working_dtype(x) -> (x.dtype)"]).check
    'attention-pooling in float16'
    """
    start = time.perf_counter()

    def ended(stage: str, check: str) -> Fate:
        return Fate(mutant, stage, check, time.perf_counter() - start)

    try:
        with _limited(), mutant.built() as module, np.errstate(all="ignore"):
            checks = [check for check in CHECKS.values() if check.room in mutant.rooms]
            checks.sort(key=lambda check: check.share <= 0.1)
            precise = "precision" in mutant.operator or mutant.operator.endswith(("dtype", "flushed", "constant"))
            for level, dtypes in (("quick", DTYPES), ("ci", DTYPES if precise else DTYPES[:1])):
                for dtype in dtypes:
                    for check in checks:
                        with _limited():
                            result = run_check(Subject("mutant", module, dtype), check, level, seed)
                        if result.status == "failed":
                            return ended(level, f"{check.id} in {dtype}")
    except _TooLongError:
        return ended("quick", "it takes too long")
    except Exception as error:
        return ended("built", f"{type(error).__name__}: {error}")
    return ended("survived", "")


@contextmanager
def _limited() -> Iterator[None]:
    """Time is up after `LONGEST` seconds, in the main thread of a system that has alarms."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def equivalent() -> dict[str, str]:
    """Mutants that no input can tell from the correct backend, each with the reason."""
    return _listed(EQUIVALENT)


def holes() -> dict[str, str]:
    """Mutants that the suite is known not to kill, each with what it would have to look at."""
    return _listed(HOLES)


def _listed(file: Path) -> dict[str, str]:
    """The mutants of a file: a reason in a line of its own, and below it the mutants that it is about, indented.

    Raises:
        ValueError: a mutant that stands there twice, or has no reason.
    """
    found: dict[str, str] = {}
    reason = ""
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if not line.startswith("    "):
            reason = line.strip()
            continue
        name = line.strip()
        if not reason or name in found:
            raise ValueError(f"{file.name}: every mutant must stand there once, below a reason, got {name!r}")
        found[name] = reason
    return found


def gone() -> list[str]:
    """Entries of the two files that are about code that is not there any more."""
    return [name for name in (*equivalent(), *holes()) if name not in generated()]


def sample(count: int | None, seed: int = 0, known: bool = True) -> list[Generated]:
    """Some of the mutants that are not equivalent, in the order of the source.

    Which ones is drawn by their names, so one that comes or goes changes nothing about the others.

    Args:
        count: how many; None for all.
        seed: of the draw.
        known: whether known holes are drawn, too.
    """
    without = {**equivalent(), **({} if known else holes())}
    mutants = [mutant for name, mutant in generated().items() if name not in without]
    if count is None:
        return mutants
    drawn = sorted(mutants, key=lambda mutant: random.Random(f"{seed} {mutant.name}").random())[:count]
    return [mutant for mutant in mutants if mutant in drawn]


def run_generated(console: Console, count: int | None = None, seed: int | None = None) -> int:
    """Run the suite on generated mutants and print how many die where, and the names of the survivors.

    Args:
        console: where to print.
        count: how many, drawn with `seed`; None for all of them.
        seed: of the draw and of the examples; None for the same ones in every run.

    Returns:
        0 if only those survived that are known to, 1 otherwise.
    """
    fates = []
    mutants = sample(count, seed or 0)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("generated mutants", total=len(mutants))
        for mutant in mutants:
            fates.append(fate(mutant, seed))
            progress.advance(task)
    print_fates(console, fates)
    known = holes()
    return int(any(each.stage == "survived" and each.mutant.name not in known for each in fates))


def print_fates(console: Console, fates: Sequence[Fate]) -> None:
    """The share that is dead after every stage, then the survivors."""
    dead = Counter(each.stage for each in fates)
    rows = Table(title="Generated mutants", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    rows.add_column("dead after")
    for heading in ("mutants", "of all"):
        rows.add_column(heading, justify="right")
    total = 0
    for stage in STAGES:
        total += dead[stage]
        rows.add_row({"built": "import"}.get(stage, f"level {stage}"), str(total), f"{total / max(len(fates), 1):.1%}")
    console.print(rows)
    known = holes()
    for each in fates:
        if each.stage == "survived":
            says = known.get(each.mutant.name, "a new hole")
            console.print(
                f"[bold red]survived[/] {each.mutant.name}  [dim]({says})[/]", highlight=False, soft_wrap=True
            )
    for name in gone():
        console.print(f"[dim]listed, but gone: {name}[/]", highlight=False, soft_wrap=True)
    others = len(set(equivalent()) & set(generated()))
    console.print(
        f"{total} of {len(fates)} generated mutants killed; {others} others are proved equivalent", highlight=False
    )
