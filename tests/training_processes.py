"""Trainings in processes of their own, some of them killed: run as a program, `training_processes.py FOLDER`.

It forks before PyTorch has done any work, so that its import is paid for once.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sklearn.cluster  # these first, so that no child has to
import timm
import torch
import torch._dynamo
import torch.distributed.checkpoint.state_dict
import torch.distributed.fsdp

with contextlib.suppress(ImportError):
    import torch.utils.tensorboard

from tokenmerge.training import checkpoint, command, trainer
from tokenmerge.training.request import Request
from tokenmerge.training.trainer import Trainer

SMALL: dict[str, Any] = {
    "input_size": 8,
    "merger": "ltm",
    "knob": {"compression_ratio": 0.5},
    "recipe": "bottleneck",
    "ib_start": 0.0,
    "epochs": 2,
    "batch_size": 8,
    "warmup_epochs": 0,
}
DRAWN = {"drop_path": 0.3, "reprob": 0.5, "mixup": 0.8, "cutmix": 1.0, "model_ema": True, "checkpoint_steps": 1}


def request(folder: Path, name: str, **options: Any) -> Request:
    return Request(data=str(folder / "images"), out=folder / name, **SMALL | options)


def child(work: Callable[[], Any]) -> int:
    """What a process that does this work ends with."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            work()
            status = 0
        except OSError as error:
            print(error, file=sys.stderr)
            status = 2
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at(step: int, wanted: Request) -> None:
    """Killed before a step."""
    original = Trainer.train_step

    def train_step(self: Trainer, *batch: Any) -> float:
        return die() if self.step == step else original(self, *batch)  # type: ignore[return-value]

    Trainer.train_step = train_step  # type: ignore[method-assign]
    command.run(wanted)


def killed_in_a_write(number: int, wanted: Request) -> None:
    """Killed when half of a checkpoint is written."""
    original, written = torch.save, [0]

    def save(state: Any, part: Path) -> None:
        original(state, part)
        written[0] += 1
        if written[0] == number:
            part.write_bytes(part.read_bytes()[:1000])
            die()

    checkpoint.torch.save = save  # type: ignore[attr-defined]
    command.run(wanted)


def full_disk(wanted: Request) -> None:
    """After the second checkpoint no file may grow over 20 kB."""
    original, written = Trainer.save, [0]

    def save(self: Trainer, path: Path) -> None:
        original(self, path)
        written[0] += 1
        if written[0] == 2:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    Trainer.save = save  # type: ignore[method-assign]
    command.run(wanted)


def in_float64(wanted: Request) -> None:
    """So that what is left of differences is far below the resolution of float32."""
    build, loaded = trainer.build, Trainer.loaded

    def doubled(self: Trainer, *arguments: Any) -> Any:
        for images, labels in loaded(self, *arguments):
            yield images.double(), labels

    trainer.build = lambda *arguments: build(*arguments).double()
    Trainer.loaded = doubled  # type: ignore[method-assign]
    command.run(wanted)


def together(world: int, work: Callable[[], Any]) -> list[int]:
    """As torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}

    def one(rank: int) -> None:
        os.environ.update(shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        work()

    first = os.fork()
    if first == 0:
        os._exit(child(lambda: one(1)))
    return [child(lambda: one(0)), os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])]


def main(folder: Path) -> None:
    assert sklearn and timm
    command.write_plot = lambda *_: None  # type: ignore[assignment]  # a second of work each time

    def whole(name: str, **options: Any) -> int:
        return child(lambda: command.run(request(folder, name, **DRAWN | options)))

    assert whole("whole", workers=1) == 0  # nothing depends on who reads the images
    assert child(lambda: killed_at(3, request(folder, "step", **DRAWN))) == -signal.SIGKILL
    assert child(lambda: killed_in_a_write(2, request(folder, "write", **DRAWN))) == -signal.SIGKILL
    assert child(lambda: full_disk(request(folder, "full", **DRAWN))) == 2
    assert [whole(name, resume=True) for name in ("step", "write", "full")] == [0, 0, 0]
    assert child(lambda: in_float64(request(folder, "one", opt="sgd"))) == 0
    assert together(2, lambda: in_float64(request(folder, "two", opt="sgd"))) == [0, 0]
    assert together(2, lambda: in_float64(request(folder, "parts", opt="sgd", shard=True))) == [0, 0]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
