"""`tokenmerge train`: the digits network in one line, or any network, data and merger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tokenmerge.commands.needs import require_torch

OLD_DOOR = ("dataset", "out", "epochs", "seed")  # options of `tokenmerge train digits`
DATA, NETWORK, LOSS, STEPS, RUN = "Data", "Network", "Loss", "Optimizer", "Run"


def train(
    context: typer.Context,
    dataset: Annotated[
        str | None, typer.Argument(help="digits: a small network, without merging, to one file; else give --data.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="digits, or a folder of class folders.", rich_help_panel=DATA),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Where all goes: a folder (for `train digits` a file).")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 60,
    seed: Annotated[int, typer.Option(help="Of first parameters, order and variation of the images.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Of a step, over all processes.", rich_help_panel=DATA)] = 64,
    val_share: Annotated[
        float, typer.Option(help="Tested on, where there is no folder val.", rich_help_panel=DATA)
    ] = 0.2,
    input_size: Annotated[
        int | None, typer.Option(help="Pixels; else as the model was made for.", rich_help_panel=DATA)
    ] = None,
    aa: Annotated[
        str | None, typer.Option(help="timm's policy, such as rand-m9-mstd0.5-inc1.", rich_help_panel=DATA)
    ] = None,
    color_jitter: Annotated[float, typer.Option(help="Strength.", rich_help_panel=DATA)] = 0.0,
    reprob: Annotated[float, typer.Option(help="Probability of random erasing.", rich_help_panel=DATA)] = 0.0,
    mixup: Annotated[float, typer.Option(help="Its alpha; 0 for none.", rich_help_panel=DATA)] = 0.0,
    cutmix: Annotated[float, typer.Option(help="Its alpha; 0 for none.", rich_help_panel=DATA)] = 0.0,
    workers: Annotated[int, typer.Option(help="Processes that read images.", rich_help_panel=DATA)] = 0,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Of timm, or tokenmerge:NAME.", rich_help_panel=NETWORK)
    ] = "tokenmerge:digits",
    merger: Annotated[
        str, typer.Option(metavar="NAME", help="tome, ats, patch_merger, ltm or none.", rich_help_panel=NETWORK)
    ] = "none",
    r: Annotated[str | None, typer.Option("--r", help="tome: tokens per block.", rich_help_panel=NETWORK)] = None,
    max_tokens: Annotated[str | None, typer.Option(help="ats: budgets.", rich_help_panel=NETWORK)] = None,
    num_tokens_out: Annotated[int | None, typer.Option(help="patch_merger: tokens.", rich_help_panel=NETWORK)] = None,
    compression_ratio: Annotated[float | None, typer.Option(help="ltm: share.", rich_help_panel=NETWORK)] = None,
    merger_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Another option of the merger.", rich_help_panel=NETWORK),
    ] = None,
    drop_path: Annotated[float, typer.Option(help="Rate of stochastic depth.", rich_help_panel=NETWORK)] = 0.0,
    recipe: Annotated[
        str, typer.Option(metavar="NAME", help="plain, bottleneck or released.", rich_help_panel=LOSS)
    ] = "plain",
    ib_weight: Annotated[float, typer.Option(help="Of the bound.", rich_help_panel=LOSS)] = 0.1,
    ib_start: Annotated[float, typer.Option(help="Share of epochs without it.", rich_help_panel=LOSS)] = 0.3,
    smoothing: Annotated[float, typer.Option(help="Of the labels.", rich_help_panel=LOSS)] = 0.1,
    opt: Annotated[str, typer.Option(metavar="NAME", help="Of timm.", rich_help_panel=STEPS)] = "adamw",
    lr: Annotated[float, typer.Option(help="Highest learning rate.", rich_help_panel=STEPS)] = 1e-3,
    weight_decay: Annotated[float, typer.Option(rich_help_panel=STEPS)] = 0.05,
    momentum: Annotated[float, typer.Option(rich_help_panel=STEPS)] = 0.9,
    sched: Annotated[str, typer.Option(metavar="NAME", help="Of timm.", rich_help_panel=STEPS)] = "cosine",
    warmup_epochs: Annotated[int | None, typer.Option(help="Else a tenth, 5 at most.", rich_help_panel=STEPS)] = None,
    warmup_lr: Annotated[float, typer.Option(rich_help_panel=STEPS)] = 1e-6,
    min_lr: Annotated[float, typer.Option(rich_help_panel=STEPS)] = 1e-6,
    clip_grad: Annotated[float, typer.Option(help="Largest norm; 0 for any.", rich_help_panel=STEPS)] = 1.0,
    model_ema: Annotated[bool, typer.Option("--model-ema", help="Average the weights.", rich_help_panel=STEPS)] = False,
    model_ema_decay: Annotated[float, typer.Option(rich_help_panel=STEPS)] = 0.9998,
    amp: Annotated[bool, typer.Option("--amp", help="Mixed precision.", rich_help_panel=RUN)] = False,
    amp_dtype: Annotated[str, typer.Option(help="bfloat16 or float16.", rich_help_panel=RUN)] = "bfloat16",
    device: Annotated[str | None, typer.Option(help="Else a GPU if there is one.", rich_help_panel=RUN)] = None,
    checkpoint_steps: Annotated[
        int, typer.Option(help="Between checkpoints, beside those after epochs.", rich_help_panel=RUN)
    ] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint, if there is one.", rich_help_panel=RUN)
    ] = False,
    shard: Annotated[bool, typer.Option("--shard", help="FSDP2, under torchrun.", rich_help_panel=RUN)] = False,
) -> None:
    """Train a network in PyTorch, with a merger in it or without, and with the information bottleneck if asked.

    `tokenmerge train digits` trains the small network that we ship. With --data it is any network on any images; what
    was killed goes on with --resume and ends with the same weights. `torchrun` starts it on many devices.
    """
    if data is None:
        _train_digits(context, dataset, out, epochs, seed)
        return
    if dataset is not None:
        raise ValueError(f"train: `dataset` must be left out with --data, got {dataset!r}")
    require_torch("train")
    try:
        from tokenmerge.training.command import run
    except ModuleNotFoundError as error:
        raise ImportError(f"train needs {error.name}: pip install timm torchvision scikit-learn pillow") from None
    from tokenmerge.training.request import Request

    given = {name: value for name, value in context.params.items() if name in Request.__dataclass_fields__}
    knobs = ("r", "max_tokens", "num_tokens_out", "compression_ratio")
    knob = {name: context.params[name] for name in knobs}
    run(Request(**given | {"out": out or Path("tokenmerge-train"), "knob": knob, "extra": _extra(merger_option or ())}))


def check_dataset(command: str, name: str) -> None:
    """Refuse all but the digits. ValueError."""
    if name != "digits":
        raise ValueError(f"{command}: `dataset` must be 'digits', got {name!r}")


def _train_digits(context: typer.Context, dataset: str | None, out: Path | None, epochs: int, seed: int) -> None:
    if dataset is None:
        raise ValueError("train: `data` must be given, or the dataset 'digits', got nothing")
    check_dataset("train", dataset)
    source = {name: context.get_parameter_source(name) for name in context.params if name not in OLD_DOOR}
    other = [name for name, where in source.items() if where is not None and where.name != "DEFAULT"]
    if other:
        option = other[0].replace("_", "-")
        raise ValueError(
            f"train: `{option}` must be left out of `train digits`, which has none, got one (give --data digits)"
        )
    from tokenmerge.digits.command import train_digits

    train_digits(out or Path("digits.safetensors"), epochs, seed)


def _extra(options: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """`NAME=VALUE`, with the value as JSON or else as a word.

    >>> _extra(["prop_attn=false", "order=score"])
    {'prop_attn': False, 'order': 'score'}
    """
    found: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not (name and equals):
            raise ValueError(f"train: `merger-option` must be NAME=VALUE, got {option!r}")
        try:
            found[name.replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            found[name.replace("-", "_")] = value
    return found
