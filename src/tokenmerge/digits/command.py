"""`tokenmerge train digits` and `tokenmerge evaluate digits`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tokenmerge.backends.registry import available_backends
from tokenmerge.digits.data import load_digits
from tokenmerge.digits.evaluate import RATES, Row, cases, evaluate
from tokenmerge.digits.network import CHECKPOINT
from tokenmerge.digits.report import plot, table, write_json
from tokenmerge.files import check_writable, read_tensors, write_tensors
from tokenmerge.spec.shared.arguments import check_choice, check_integer

FINE_TUNING_RATE = 5e-4
Array = np.ndarray[Any, Any]


def train_digits(out: Path, epochs: int, seed: int) -> float:
    """Train, save as safetensors, and return the accuracy on the test images."""
    from tokenmerge.digits.train import train

    check_integer("train", "epochs", epochs, minimum=1)
    check_integer("train", "seed", seed, minimum=0)
    _check_out("train", "out", out)
    training, test = load_digits()
    with _bar() as bar:
        task = bar.add_task("epochs", total=epochs, note="")

        def progress(epoch: int, loss: float) -> None:
            bar.update(task, completed=epoch, note=f"loss {loss:.3f}")

        params = train(training, epochs=epochs, seed=seed, progress=progress)
    written = _save(out, params)
    (row,) = evaluate(test, params, "none", "", None, ("torch",))
    Console().print(f"{100 * row.accuracy:.2f} % of {len(test.labels)} test images are right; parameters in {written}.")
    if written != out:
        raise OSError(f"train: `out` must be a file that can be written, got {str(out)!r}: parameters are in {written}")
    return row.accuracy


def _save(out: Path, params: dict[str, Array]) -> Path:
    """Write what was trained; if the file cannot be written, beside it, here, or where temporary files are."""
    spare = f"{out.stem}-{os.getpid()}.safetensors"
    places = (out, out.parent / spare, Path.cwd() / spare, Path(tempfile.gettempdir()) / spare)
    for path in places:
        try:
            write_tensors("train", "out", path, params)
        except OSError:
            if path == places[-1]:
                raise
        else:
            break
    return path


def evaluate_digits(
    weights: Path | None,
    backends: tuple[str, ...],
    mergers: tuple[str, ...],
    fine_tune: int,
    drawing: Path | None,
    json: Path | None,
) -> list[Row]:
    """Every merger at several rates in every backend; returns the rows of the table."""
    check_integer("evaluate", "fine-tune", fine_tune, minimum=0, hint="epochs")
    for merger in mergers:
        check_choice("evaluate", "merger", merger, RATES)
    for name, path in (("plot", drawing), ("json", json)):
        if path is not None:
            _check_out("evaluate", name, path)
    usable = tuple(name for name, info in available_backends().items() if info.available and name != "spec")
    for backend in backends:
        check_choice("evaluate", "backend", backend, (*usable, "spec"))
    chosen = backends or usable
    training, test = load_digits()
    params = read_tensors("evaluate", "weights", CHECKPOINT if weights is None else weights)
    console, rows = Console(), []
    work = list(cases(tuple(dict.fromkeys(("none", *(mergers or RATES))))))
    with _bar() as bar:
        task = bar.add_task("configurations", total=len(work), note="")
        for merger, rate, merging in work:
            bar.update(task, note=f"{merger} {rate}")
            rows += evaluate(test, params, merger, rate, merging, chosen)
            if fine_tune and merging is not None:
                from tokenmerge.digits.train import train

                tuned = train(training, epochs=fine_tune, merging=merging, params=params, rate=FINE_TUNING_RATE)
                rows += evaluate(test, tuned, merger, rate, merging, chosen, "fine-tuned")
            bar.advance(task)
    console.print(table(rows))
    if drawing is not None:
        plot(rows, drawing)
        console.print(f"The plot is in {drawing}.", highlight=False, soft_wrap=True)
    if json is not None:
        write_json(rows, json)
    return rows


@contextmanager
def _bar() -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as progress:
        yield progress


def _check_out(owner: str, name: str, path: Path) -> None:
    """Before minutes of work: the folder is there and the file can be written."""
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"digits: `{name}` must be a file in a folder that exists, got {path}")
    check_writable(owner, name, path)
