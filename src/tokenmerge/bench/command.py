"""The command: which cases, a progress bar, a table, and files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tokenmerge.backends import available_backends
from tokenmerge.bench import networks, operators, small
from tokenmerge.bench.growth import STEPS, growth
from tokenmerge.bench.machine import Limits, facts, limits, sentences
from tokenmerge.bench.request import NETWORKS, Request
from tokenmerge.bench.row import Case, Row
from tokenmerge.bench.run import measure
from tokenmerge.bench.subject import Subject
from tokenmerge.bench.table import table
from tokenmerge.files import check_writable, write_text

Job = tuple[str, Subject, dict[str, int] | None]


def bench(asked: Request) -> list[Row]:
    """Measure, print, and write what was asked for."""
    for name, path in (("json", asked.json), ("plot", asked.plot)):
        if path is not None:
            check_writable("bench", name, path)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # PyTorch's profiler, which counts memory, is talkative
    # none but those that were asked for is imported: JAX takes most of a GPU's memory when it starts
    backends = asked.backends or [info.name for info in available_backends().values() if info.available]
    given = [parse(shape) for shape in asked.shapes]
    subjects = [
        Subject(name, asked.device, asked.dtype, asked.graph) for name in backends if name in ("numpy", "torch", "jax")
    ]
    if asked.threads is not None and any(each.name == "torch" for each in subjects):
        import torch

        torch.set_num_threads(asked.threads)
    jobs = [job for name in asked.names for subject in subjects for job in _jobs(name, subject, given)]
    console = Console()
    known = facts(subjects)
    for sentence in sentences(known):
        console.print(sentence, style="dim", highlight=False, markup=False)
    rows: list[Row] = []
    growing: list[tuple[str, Row]] = []
    machine: dict[str, Limits] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("the machine", total=len(jobs))
        for name, subject, size in jobs:
            progress.update(task, description=f"{name} in {subject.name}")
            if subject.name not in machine:
                machine[subject.name] = limits(subject)
            if name == "growth":
                growing += growth(subject, machine[subject.name], asked.seconds)
            else:
                cases = small.cases(subject) if name == "small" else _cases(name, subject, size, asked)
                rows += [measure(each, machine[subject.name], asked.seconds) for each in cases]
            progress.advance(task)
    rows += [row for _, row in growing]
    for name, can in machine.items():
        console.print(
            f"{name}: {can.bandwidth / 1e9:.1f} GB/s copied, {can.rate / 1e9:.0f} G multiply-adds/s in {asked.dtype}",
            style="dim",
            highlight=False,
        )
    console.print(table(rows))
    for sentence in means(rows):
        console.print(sentence, highlight=False)
    if asked.json is not None:
        known["limits"] = {name: can._asdict() for name, can in machine.items()}
        text = json.dumps({"machine": known, "rows": [row.as_json() for row in rows]}, indent=1) + "\n"
        write_text("bench", "json", asked.json, text)
    if asked.plot is not None:
        _plot(rows, growing, asked.plot)
    return rows


def parse(shape: str) -> dict[str, int]:
    """`B=8,N=197` as numbers by name.

    >>> parse("B=8,N=197")
    {'B': 8, 'N': 197}
    """
    found = {}
    for part in shape.split(","):
        name, _, value = part.partition("=")
        if not value.strip().isdigit():
            raise ValueError(f"bench: `shape` must be like B=8,N=197,D=64,C=768,r=16, got {shape!r}")
        found[name.strip()] = int(value)
    return found


def means(rows: Sequence[Row]) -> Iterator[str]:
    """The geometric mean wherever an operation was compared at several shapes."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        groups.setdefault((row.operation, row.backend, row.against), []).append(row.ratio)
    for (operation, backend, against), ratios in groups.items():
        if len(ratios) > 1:
            mean = prod(ratios) ** (1 / len(ratios))
            shapes = f"{len(ratios)} shapes"
            yield f"{operation} in {backend} against {against}: {mean:.2f} at the geometric mean of {shapes}"


def _jobs(name: str, subject: Subject, given: Sequence[dict[str, int]]) -> Iterator[Job]:
    own = operators.OPERATIONS[name].shapes if name in operators.OPERATIONS else (None,)
    for shape in own if name == "small" else given or own:
        yield name, subject, shape


def _cases(name: str, subject: Subject, shape: dict[str, int] | None, asked: Request) -> Iterator[Case]:
    if name in NETWORKS:
        batch = 8 if shape is None else shape.get("B", 8)
        return networks.cases(name.removeprefix("vit-"), subject, asked.network, batch, asked.compiled)
    assert shape is not None
    return operators.cases(name, subject, shape, asked.compiled)


def _plot(rows: Sequence[Row], growing: Sequence[tuple[str, Row]], path: Path) -> None:
    from tokenmerge.bench.plot import plot_growth, plot_rows

    if not growing:
        plot_rows(rows, path)
        return
    series: dict[str, dict[str, list[tuple[float, float, float]]]] = {number: {} for number in STEPS}
    for number, row in growing:
        lines = series[number]
        point = float(row.shape[number])
        lines.setdefault(row.backend, []).append((point, row.ours, float(row.our_peak or 0)))
        if row.backend == "torch":
            lines.setdefault(row.against, []).append((point, row.other, float(row.other_peak or 0)))
    plot_growth(series, path)
