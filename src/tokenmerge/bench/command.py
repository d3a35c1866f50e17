"""The command: which cases, a progress bar, a table, and files."""

from __future__ import annotations

import json as json_format
import os
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tokenmerge.backends import available_backends
from tokenmerge.bench import networks, operators
from tokenmerge.bench.growth import STEPS, growth
from tokenmerge.bench.machine import Limits, facts, limits, sentences
from tokenmerge.bench.row import Case, Row
from tokenmerge.bench.run import measure
from tokenmerge.bench.subject import Subject
from tokenmerge.bench.table import table
from tokenmerge.files import write_text

NETWORKS = tuple(f"vit-{merger}" for merger in networks.MERGERS)
OPERATIONS = (*operators.OPERATIONS, *NETWORKS, "growth")
Job = tuple[str, Subject, dict[str, int] | None]


def bench(
    names: Sequence[str] = ("tome",),
    backends: Sequence[str] = (),
    device: str | None = None,
    dtype: str = "float32",
    shapes: Sequence[str] = (),
    network: str = "vit_base_patch16_224",
    seconds: float = 2.0,
    threads: int | None = None,
    graph: bool = False,
    compiled: bool = False,
    json: Path | None = None,
    plot: Path | None = None,
) -> list[Row]:
    """Measure, print, and write what was asked for.

    Args:
        names: of `OPERATIONS`; backends: those installed if none are given.
        shapes: such as "B=8,N=197,D=64,C=768,r=16", for every name; if none are given, those of docs/performance.md.
        seconds: for each comparison.
        threads: of PyTorch; NumPy and JAX read the environment when they start.
        graph: capture PyTorch's calls on CUDA in CUDA graphs.
        compiled: also time ours through `torch.compile` against ours without.
    """
    for name in names:
        if name not in OPERATIONS:
            raise ValueError(f"bench: operation must be one of {', '.join(OPERATIONS)}, got {name!r}")
    if not seconds > 0:
        raise ValueError(f"bench: `seconds` must be greater than 0, got {seconds}")
    if network not in networks.NETWORKS:
        raise ValueError(f"bench: `network` must be one of {', '.join(networks.NETWORKS)}, got {network!r}")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # PyTorch's profiler, which counts memory, is talkative
    if not backends:  # else none but these is imported: JAX takes most of a GPU's memory when it starts
        backends = [info.name for info in available_backends().values() if info.available]
    given = [parse(shape) for shape in shapes]
    subjects = [Subject(name, device, dtype, graph) for name in backends if name in ("numpy", "torch", "jax")]
    if threads is not None and any(each.name == "torch" for each in subjects):
        import torch

        torch.set_num_threads(threads)
    jobs = [job for name in names for subject in subjects for job in _jobs(name, subject, given)]
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
                growing += growth(subject, machine[subject.name], seconds)
            else:
                cases = _cases(name, subject, size, network, compiled)
                rows += [measure(each, machine[subject.name], seconds) for each in cases]
            progress.advance(task)
    rows += [row for _, row in growing]
    for name, can in machine.items():
        console.print(
            f"{name}: {can.bandwidth / 1e9:.1f} GB/s copied, {can.rate / 1e9:.0f} G multiply-adds/s in {dtype}",
            style="dim",
            highlight=False,
        )
    console.print(table(rows))
    for sentence in means(rows):
        console.print(sentence, highlight=False)
    if json is not None:
        known["limits"] = {name: can._asdict() for name, can in machine.items()}
        text = json_format.dumps({"machine": known, "rows": [row.as_json() for row in rows]}, indent=1) + "\n"
        write_text("bench", "json", json, text)
    if plot is not None:
        _plot(rows, growing, plot)
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
    for shape in given or own:
        yield name, subject, shape


def _cases(name: str, subject: Subject, shape: dict[str, int] | None, network: str, compiled: bool) -> Iterator[Case]:
    if name in NETWORKS:
        batch = 8 if shape is None else shape.get("B", 8)
        return networks.cases(name.removeprefix("vit-"), subject, network, batch, compiled)
    assert shape is not None
    return operators.cases(name, subject, shape, compiled)


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
