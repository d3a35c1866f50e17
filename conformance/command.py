"""`tokenmerge conformance`: the suite on the command line."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tokenmerge.backends import get_backend
from tokenmerge.conformance.checks.check import MERGERS
from tokenmerge.conformance.report import print_report, write_json
from tokenmerge.conformance.runner import LEVELS, Result, run_check, select
from tokenmerge.conformance.subject import Subject
from tokenmerge.spec.arguments import check_choice


def conformance(
    backend: str,
    *,
    dtypes: tuple[str, ...] = (),
    mergers: tuple[str, ...] = (),
    level: str = "ci",
    seed: int | None = None,
    json: Path | None = None,
) -> int:
    """Run the suite on a backend and print what it found.

    Args:
        backend: a name known to the registry, or the dotted name of a module.
        dtypes: some of the backend's `DTYPES`; none for all.
        mergers: some of the four; none for all.
        level: "quick", "ci" or "deep".
        seed: of the examples; None for the same ones in every run.
        json: file for a report that machines read.

    Returns:
        0 if every check passed, 1 otherwise.

    Raises:
        ValueError: an unknown backend, dtype, merger or level.
        ImportError: the backend does not import.
        OSError: the report cannot be written; found out before any check runs.
    """
    module = get_backend(backend)
    check_choice("conformance", "level", level, LEVELS)
    for dtype in dtypes:
        check_choice("conformance", "dtype", dtype, module.DTYPES)
    for merger in mergers:
        check_choice("conformance", "merger", merger, MERGERS)
    if json is not None:
        json.touch()

    console = Console()
    checks = select(mergers or MERGERS)
    results: list[Result] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(backend, total=len(checks) * len(dtypes or module.DTYPES))
        for dtype in dtypes or module.DTYPES:
            subject = Subject(backend, module, dtype)
            for check in checks:
                progress.update(task, description=f"{check.id} in {dtype}")
                results.append(run_check(subject, check, level, seed))
                progress.advance(task)
    print_report(console, f"{backend} {module.VERSION}", results)
    if json is not None:
        write_json(json, backend, module, level, seed, results)
    return int(any(result.status == "failed" for result in results))
