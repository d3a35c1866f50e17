"""One training: the state, a step, an epoch, and the checkpoint that another process goes on from.

Nothing that is drawn depends on what was drawn before: the order of the images depends on `(seed, epoch)`, an image's
augmentation on `(seed, epoch, index)`, and mixup, dropout and drop path on `(seed, step, rank)`. So the seed and the
numbers of epoch and step, which are in the checkpoint, are the whole state of all random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tokenmerge.backends.torch.bottleneck_tracker import BottleneckTracker
from tokenmerge.backends.torch.precision import working_dtype
from tokenmerge.training import checkpoint
from tokenmerge.training.images import BrokenImage, Data, Images, ImageSet, reseed, transforms
from tokenmerge.training.networks import Reader, build, logits_of, pixels_of, side_of
from tokenmerge.training.ranks import Ranks
from tokenmerge.training.request import Request
from tokenmerge.training.weights import Weights

Tensor = torch.Tensor
Row = dict[str, Any]
ORDER, STEP = 0, 1  # what a number is drawn for


class Trainer:
    """A training that can be stopped anywhere and gone on with.

    Args:
        request: what was asked for; data: the images; ranks: which process this is.

    Raises:
        TypeError, ValueError: a model, a merger, an optimizer or a schedule that does not exist or does not fit.
    """

    def __init__(self, request: Request, data: Data, ranks: Ranks) -> None:
        from timm import data as timm_data

        Mixup: Any = timm_data.Mixup  # type: ignore[attr-defined]
        self.request, self.data, self.ranks = request, data, ranks
        self.side = side_of(request, data)
        self.transforms = transforms(request, data, self.side)
        model = build(request, data, self.side).to(ranks.device)
        self.reader = Reader(model)
        self.weights = Weights(request, model, ranks)
        classes, images = len(data.classes), len(data.train.labels)
        if request.batch_size % ranks.world:
            raise ValueError(
                f"train: `batch-size` must be a multiple of the {ranks.world} processes, got {request.batch_size}"
            )
        if images < request.batch_size:
            raise ValueError(
                f"train: `batch-size` must be at most the {images} training images, got {request.batch_size}"
            )
        self.steps = images // request.batch_size
        self.optimizer, self.scheduler = _optimizer(request, self.weights.bare, self.steps)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=request.amp and request.amp_dtype == "float16")
        mixes = bool(request.mixup or request.cutmix)
        part = request.batch_size // ranks.world
        if mixes and part % 2:
            raise ValueError(f"train: `batch-size` must be even in every process with mixup or cutmix, got {part}")
        smoothing = request.smoothing
        self.mixup: Any = None
        if mixes:
            self.mixup = Mixup(request.mixup, request.cutmix, label_smoothing=smoothing, num_classes=classes)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.0 if mixes else smoothing)
        self.tracker: BottleneckTracker | None = None
        if request.recipe != "plain":
            self.tracker = BottleneckTracker(
                classes,
                epochs=request.epochs,
                weight=request.ib_weight,
                start=request.ib_start,
                recipe="released" if request.recipe == "released" else "aligned",
                seed=request.seed,
            )
        self.epoch, self.position, self.step = 0, 0, 0  # epochs done, steps done of this one, steps done of all
        self.total = torch.zeros((), dtype=torch.float64)  # of this epoch's losses
        self.measures: dict[str, float] = {}
        self.rows: list[Row] = []

    def run(self, path: Path, progress: Callable[[int, float], None], done: Callable[[list[Row]], None]) -> None:
        """Train to the end, from wherever this is.

        Args:
            path: of the checkpoint; progress: called with the steps done and the loss after every step of the first
                process; done: called with the table after every epoch, when its checkpoint is written.

        Raises:
            ValueError: an image that cannot be read, or a loss that is not finite; the last checkpoint stays.
        """
        while self.epoch < self.request.epochs:
            if self.position == 0:
                self.begin_epoch()
            for images, labels in self.batches():
                loss = self.train_step(images, labels)
                progress(self.step, loss)
                every = self.request.checkpoint_steps
                if every and self.step % every == 0 and self.position < self.steps:
                    self.save(path)
            self.end_epoch()
            self.save(path)
            done(self.rows)

    @torch.no_grad()
    def begin_epoch(self) -> None:
        """The tracker's pass over the training images."""
        self.total.zero_()
        if self.tracker is None:
            return
        if self.tracker.centroids_in is None:
            self.tracker.fit_inputs(torch.cat([pixels_of(images) for images, _ in self.plain(self.data.train)]))
        for images, labels in self.plain(self.data.train):
            self.logits(images)
            self.tracker.observe(self.reader.take(), labels, pixels_of(images))
        self.measures = self.tracker.update()._asdict()

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's part of the rest of this epoch's batches."""
        request, world = self.request, self.ranks.world
        rng = np.random.default_rng((request.seed, ORDER, self.epoch))
        order = rng.permutation(len(self.data.train.labels))[: self.steps * request.batch_size]
        mine = order.reshape(self.steps, -1)[self.position :, self.ranks.rank :: world]
        yield from self.loaded(self.data.train, self.transforms[0], [list(map(int, part)) for part in mine])

    def plain(self, images: Images) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's part of all images, each once, as they are for testing. The model sees them so."""
        mine = list(range(self.ranks.rank, len(images.labels), self.ranks.world))
        size = self.request.batch_size // self.ranks.world
        self.weights.model.eval()
        yield from self.loaded(images, self.transforms[1], [mine[i : i + size] for i in range(0, len(mine), size)])

    def loaded(self, images: Images, transform: Any, batches: list[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        mode = "L" if self.data.channels == 1 else "RGB"
        dataset = ImageSet(images, transform, mode, self.request.seed, self.epoch)
        workers, pinned = self.request.workers, self.ranks.device.type == "cuda"
        loader: Any = torch.utils.data.DataLoader(
            dataset, batch_sampler=batches, num_workers=workers, pin_memory=pinned
        )
        try:
            for each, labels in loader:
                yield each.to(self.ranks.device), labels.to(self.ranks.device)
        except BrokenImage as error:  # a worker puts its traceback in front
            raise ValueError(str(error).rpartition("BrokenImage: ")[2].strip()) from None

    def logits(self, images: Tensor, model: nn.Module | None = None) -> Tensor:
        dtype = getattr(torch, self.request.amp_dtype)
        with torch.autocast(self.ranks.device.type, dtype, enabled=self.request.amp):
            found = logits_of((self.weights.bare if model is None else model)(images))
        return found.to(working_dtype(found))

    def train_step(self, images: Tensor, labels: Tensor) -> float:
        """One step of the optimizer; returns the loss of this process's part."""
        reseed(self.request.seed, STEP, self.step, self.ranks.rank)
        self.weights.model.train()
        target, share = labels, 1.0
        if self.mixup is not None:
            images, target = self.mixup(images, labels)
            share = _share(target, labels, self.request.smoothing)
        loss = self.criterion(self.logits(images, self.weights.model), target)
        features = self.reader.take()
        if self.tracker is not None and self.tracker.active:
            seen = pixels_of(images)
            loss = loss + share * self.tracker.loss(features, labels, seen)
            if share < 1:  # the images were mixed with those in reverse order, and so are the bounds
                loss = loss + (1 - share) * self.tracker.loss(features, labels.flip(0), seen)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ValueError(f"train: `lr` must be one that training bears, got the loss {value} in step {self.step}")
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        if self.request.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.weights.bare.parameters(), self.request.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step, self.position = self.step + 1, self.position + 1
        self.scheduler.step_update(self.step)
        self.weights.average()
        self.total += value
        return value

    def end_epoch(self) -> None:
        """Test, and a row of the table."""
        rate = float(self.optimizer.param_groups[0]["lr"])
        mean = float(self.ranks.total(self.total.clone()).cpu()) / (self.steps * self.ranks.world)
        loss, accuracy = self.test(self.weights.bare)
        row: Row = {"epoch": self.epoch + 1, "lr": rate, "train_loss": mean}
        row |= {"val_loss": loss, "accuracy": accuracy}
        if self.weights.ema is not None:
            row["ema_accuracy"] = self.test(self.weights.ema.module)[1]
        self.rows.append(row | self.measures)
        self.epoch, self.position = self.epoch + 1, 0

    @torch.no_grad()
    def test(self, model: nn.Module) -> tuple[float, float]:
        """Mean cross-entropy and accuracy on the test images, over all processes."""
        sums = torch.zeros(3, dtype=torch.float64)
        for images, labels in self.plain(self.data.val):
            logits = self.logits(images, model)
            sums[0] += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
            sums[1] += int((logits.argmax(dim=1) == labels).sum())
            sums[2] += len(labels)
        loss, right, count = (float(each) for each in self.ranks.total(sums).cpu())
        return loss / count, right / count

    def identity(self) -> dict[str, Any]:
        """What the weights depend on: a checkpoint goes on only with the same."""
        seen = {"classes": "/".join(self.data.classes), "images": len(self.data.train.labels)}
        return self.request.identity() | seen

    def save(self, path: Path) -> None:
        """Write the checkpoint. OSError."""
        state = {
            "identity": self.identity(),
            **{name: getattr(self, name) for name in ("epoch", "position", "step", "measures", "rows")},
            "total": self.ranks.total(self.total.clone()).cpu() / self.ranks.world,
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "tracker": None if self.tracker is None else self.tracker.state_dict(),
            **self.weights.state(self.optimizer),
        }
        if self.ranks.first:
            checkpoint.write(path, state)
        self.ranks.wait()

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same run. ValueError."""
        state = checkpoint.read(path, self.identity())
        for name in ("epoch", "position", "step", "measures", "rows", "total"):
            setattr(self, name, state[name])
        self.weights.load(state, self.optimizer)
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        if self.tracker is not None:
            self.tracker.load_state_dict(state["tracker"])


def _share(target: Tensor, labels: Tensor, smoothing: float) -> float:
    """How much of the mixed images is the images themselves, from the labels that were mixed alike."""
    off = smoothing / target.shape[1]
    own = target.gather(1, labels[:, None])[:, 0]
    return float(((own - off) / (1 - smoothing)).min().clamp(0, 1))


def _optimizer(request: Request, model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    """timm's optimizer and schedule, which goes by steps. ValueError."""
    from timm import optim as timm_optim
    from timm import scheduler as timm_scheduler

    create_optimizer_v2: Any = timm_optim.create_optimizer_v2  # type: ignore[attr-defined]
    create_scheduler_v2: Any = timm_scheduler.create_scheduler_v2  # type: ignore[attr-defined]
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            model, opt=request.opt, lr=request.lr, weight_decay=request.weight_decay, momentum=request.momentum
        )
    except (ValueError, AssertionError) as error:
        why = " ".join(str(error).split())[:100]
        raise ValueError(f"train: `opt` must be an optimizer of timm, got {request.opt!r} ({why})") from None
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched=request.sched,
            num_epochs=request.epochs,
            min_lr=request.min_lr,
            warmup_lr=request.warmup_lr,
            warmup_epochs=request.warmup,
            step_on_epochs=False,
            updates_per_epoch=steps,
        )
    except ValueError as error:
        scheduler, why = None, str(error)
    else:
        why = "none"
    if scheduler is None:
        raise ValueError(f"train: `sched` must be a schedule of timm such as cosine, got {request.sched!r} ({why})")
    scheduler.step_update(0)
    return optimizer, scheduler
