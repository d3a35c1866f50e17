"""`tokenmerge export`: write, load again, compare, time, and print one table."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tokenmerge.deploy.check import Agreement, agreement, photographs
from tokenmerge.deploy.deployed import gives_plan, without_merging
from tokenmerge.deploy.request import Request
from tokenmerge.deploy.source import image_shape
from tokenmerge.deploy.timing import Timing, multiply_adds, timings
from tokenmerge.deploy.write import Written, prepared, write
from tokenmerge.files import check_writable
from tokenmerge.spec.shared.arguments import check_integer, check_real


def run(
    model: str,
    request: Request,
    *,
    merger: str = "none",
    weights: Path | None = None,
    images: tuple[Path, ...] = (),
    batches: tuple[int, ...] = (1, 8),
    threads: int | None = None,
    seconds: float = 2.0,
    **options: Any,
) -> bool:
    """Export a model by its name and say what came of it; returns whether the file agrees with eager PyTorch."""
    for batch in batches:
        check_integer("export", "batch-size", batch, minimum=1)
    if threads is not None:
        check_integer("export", "threads", threads, minimum=1)
    check_real("export", "seconds", seconds, 0.0, 3600.0, "[0, 3600]")
    check_writable("export", "out", request.out)
    source = prepared(model, merger, weights, request.format == "stablehlo", options)
    shape = image_shape(source)
    pictures = photographs(shape, images)
    written = write(source, request, shape)
    console = Console()
    size = f"{written.bytes / 2**20:.1f} MiB, {written.nodes} nodes"
    console.print(f"{written.path}: {request.format}, {size}", style="bold", highlight=False, soft_wrap=True)
    found = _compared(source, request, written, threads, pictures)
    console.print(_sentence(found), highlight=False, soft_wrap=True)
    if merger != "none":
        rows = list(_timed(source, request, written, batches, threads, seconds))
        console.print(_table(rows))
    return found.good


def _compared(source: Any, request: Request, written: Written, threads: int | None, pictures: Any) -> Agreement:
    """The file against eager PyTorch; decisions by a second file that gives its plans, if the first does not."""
    batch = None if request.any_batch else request.batch or 1
    run = written.load(threads)
    if request.with_plans:
        return agreement(run, run, source, pictures, batch, request.int8)
    if request.int8 or not gives_plan(source, written.shape):  # eight bits decide for themselves
        return agreement(run, None, source, pictures, batch, request.int8)
    with tempfile.TemporaryDirectory() as folder:
        second = replace(request, out=Path(folder) / f"plans{request.runtime.suffix}", with_plans=True)
        deciding = write(source, second, written.shape).load(threads)
        return agreement(run, deciding, source, pictures, batch)


def _timed(
    source: Any, request: Request, written: Written, batches: tuple[int, ...], threads: int | None, seconds: float
) -> list[Timing]:
    sizes = batches if request.any_batch else (request.batch or 1,)
    plain = without_merging(source)
    predicted = multiply_adds(plain, written.shape) / multiply_adds(source, written.shape)
    if threads is not None:
        torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        other = replace(request, out=Path(folder) / f"plain{request.runtime.suffix}", with_plans=False)
        unmerged = write(plain, other, written.shape)
        return list(timings(unmerged.load(threads), written.load(threads), written.shape, sizes, predicted, seconds))


def _sentence(found: Agreement) -> str:
    same = f"{found.same_class} of {found.images} photographs get the same class"
    logits = f"logits differ by {found.difference:.1e} of the largest"
    rounding = "" if found.budget == float("inf") else f" (rounding explains {found.budget:.1e})"
    plans = ""
    if found.other_plans is not None:
        plans = "; every decision is the same"
        if found.other_plans:
            plans = f"; {found.other_plans} plans differ, {found.near_ties} of them certified near-ties"
    return f"Against eager PyTorch: {same}; {logits}{rounding}{plans}."


def _table(rows: list[Timing]) -> Table:
    table = Table("batch", "ms plain", "ms merged", "speed-up", "quartiles", "multiply-adds predict", box=SIMPLE_HEAD)
    for row in rows:
        spread = f"{row.low:.2f}–{row.high:.2f}"
        numbers = (f"{row.plain:.2f}", f"{row.merged:.2f}", f"{row.speed_up:.2f}", spread, f"{row.predicted:.2f}")
        table.add_row(str(row.batch), *numbers)
    return table
