"""What `tokenmerge train` was asked for, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenmerge.commands.merging import merging_from_options
from tokenmerge.spec.shared.arguments import check_choice, check_integer, check_real

RECIPES = ("plain", "bottleneck", "released")
# what a run may change when it goes on, because no result depends on it
FREE = ("out", "resume", "workers", "checkpoint_steps", "device")


@dataclass(frozen=True)
class Request:
    """One training.

    Attributes:
        data: "digits", or a folder of class folders, or of `train` and `val` folders of class folders.
        out: the folder for the checkpoint, the weights, the table and the plot.
        model: a name of timm, or `tokenmerge:NAME`; input_size: pixels, None for what the model was made for.
        merger: "tome", "ats", "patch_merger", "ltm" or "none"; knob: its one option; extra: its other options.
        recipe: "plain" cross-entropy; "bottleneck", and the bound on top; "released", that in the released order.
        batch_size: images of a step, over all processes.
        val_share: of the images of every class, where the folder has no `val`.
        checkpoint_steps: steps between checkpoints beside those at the end of an epoch; 0 for none.
        shard: FSDP2 in place of DDP.

    All others are named as timm's training script names them.
    """

    data: str
    out: Path
    model: str = "tokenmerge:digits"
    input_size: int | None = None
    merger: str = "none"
    knob: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    recipe: str = "plain"
    ib_weight: float = 0.1
    ib_start: float = 0.3
    epochs: int = 60
    batch_size: int = 64
    opt: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    sched: str = "cosine"
    warmup_epochs: int | None = None
    warmup_lr: float = 1e-6
    min_lr: float = 1e-6
    clip_grad: float = 1.0
    smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    aa: str | None = None
    color_jitter: float = 0.0
    reprob: float = 0.0
    drop_path: float = 0.0
    model_ema: bool = False
    model_ema_decay: float = 0.9998
    amp: bool = False
    amp_dtype: str = "bfloat16"
    val_share: float = 0.2
    seed: int = 0
    workers: int = 0
    checkpoint_steps: int = 0
    device: str | None = None
    shard: bool = False
    resume: bool = False

    @property
    def warmup(self) -> int:
        """Epochs; a tenth of all unless given."""
        return min(5, self.epochs // 10) if self.warmup_epochs is None else self.warmup_epochs

    def check(self) -> None:
        """Check every option that needs no data and no model. TypeError, ValueError."""
        check_choice("train", "recipe", self.recipe, RECIPES)
        check_choice("train", "amp-dtype", self.amp_dtype, ("bfloat16", "float16"))
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("workers", 0), ("checkpoint_steps", 0)):
            check_integer("train", name.replace("_", "-"), getattr(self, name), minimum=least)
        if self.warmup_epochs is not None:
            check_integer("train", "warmup-epochs", self.warmup_epochs, minimum=0)
        if self.warmup >= self.epochs:
            raise ValueError(f"train: `warmup-epochs` must be below the {self.epochs} epochs, got {self.warmup}")
        if self.input_size is not None:
            check_integer("train", "input-size", self.input_size, minimum=1)
        for name in ("lr", "weight_decay", "momentum", "warmup_lr", "min_lr", "clip_grad", "mixup", "cutmix"):
            check_real("train", name.replace("_", "-"), getattr(self, name), 0.0, float("inf"), "[0, inf)")
        for name in ("color_jitter", "ib_weight"):
            check_real("train", name.replace("_", "-"), getattr(self, name), 0.0, float("inf"), "[0, inf)")
        for name in ("smoothing", "drop_path"):
            check_real("train", name.replace("_", "-"), getattr(self, name), 0.0, 1.0, "[0, 1)")
        for name in ("reprob", "model_ema_decay", "ib_start"):
            check_real("train", name.replace("_", "-"), getattr(self, name), 0.0, 1.0, "[0, 1]")
        check_real("train", "val-share", self.val_share, 0.0, 1.0, "(0, 1)")
        if self.shard and self.model_ema:
            raise ValueError(
                "train: `model-ema` must be left out with `shard`, whose weights no process has whole, got both"
            )
        merging_from_options(self.merger, owner="train", **self.knob)
        if self.merger == "none" and self.extra:
            raise ValueError("train: `merger-option` must be left out without a merger, got one")

    def identity(self) -> dict[str, Any]:
        """What the weights depend on, as plain values: a run goes on only with the same."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in FREE}
        return {name: value if isinstance(value, int | float | str) else repr(value) for name, value in values.items()}
