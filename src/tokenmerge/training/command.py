"""`tokenmerge train --data ...`: from a request to weights, a table and a plot."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tokenmerge.files import write_tensors
from tokenmerge.training import checkpoint
from tokenmerge.training.images import load
from tokenmerge.training.ranks import Ranks, ranks
from tokenmerge.training.report import Events, write_plot, write_table
from tokenmerge.training.request import Request
from tokenmerge.training.trainer import Trainer


def run(request: Request) -> list[dict[str, Any]]:
    """Train, and leave the table, the plot and the weights in the folder; returns the rows of the table.

    Raises:
        TypeError, ValueError, OSError: one sentence; the last checkpoint stays as it is.
    """
    request.check()
    with ranks(request.device) as place, _generators():
        path = checkpoint.prepare(request.out, request.resume or not place.first)
        data = load(request)
        trainer = Trainer(request, data, place)
        place.wait()
        if request.resume and path.exists():
            trainer.load(path)
        _train(trainer, request, place)
        state = trainer.weights.state(trainer.optimizer)
        if place.first:
            for name, file in (("model", "model.safetensors"), ("ema", "model-ema.safetensors")):
                if state[name] is not None:
                    write_tensors("train", "out", request.out / file, _arrays(state[name]))
            write_table(request.out, trainer.rows)  # the process may have been killed between checkpoint and table
            write_plot(request.out, trainer.rows)
            last = trainer.rows[-1]
            right = f"{100 * last['accuracy']:.2f} % of {len(data.val.labels)} test images are right"
            Console().print(f"{right}; weights, table and plot are in {request.out}.", highlight=False, soft_wrap=True)
        return trainer.rows


def _train(trainer: Trainer, request: Request, place: Ranks) -> None:
    columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True), disable=not place.first)
    events = Events(request.out, trainer.epoch) if place.first else None
    with bar:
        steps = request.epochs * trainer.steps
        task = bar.add_task("steps", total=steps, completed=trainer.step, epoch=trainer.epoch + 1, note="")

        def progress(step: int, loss: float) -> None:
            bar.update(task, completed=step, epoch=trainer.epoch + 1, note=f"loss {loss:.3f}")

        def done(rows: list[dict[str, Any]]) -> None:
            if events is not None:
                write_table(request.out, rows)
                events.add(rows[-1])

        trainer.run(request.out / checkpoint.NAME, progress, done)
    if events is not None:
        events.close()


def _arrays(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: value.detach().cpu().contiguous().numpy() for name, value in state.items()}


@contextmanager
def _generators() -> Iterator[None]:
    """Random numbers afterwards are as if nobody had trained."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
