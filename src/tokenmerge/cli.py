"""The command line: `tokenmerge demo`, `tokenmerge visualize`, `tokenmerge conformance`, `tokenmerge backends`.

A command imports what it needs when it runs, so that `tokenmerge --help` loads no framework.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tokenmerge.commands.options import Backends, CompressionRatio, MaxTokens, Merger, NumTokensOut, R
from tokenmerge.commands.train import check_dataset, train


class OneSentence(TyperGroup):
    """What the user got wrong is said in one sentence on stderr, with exit status 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, TypeError, ImportError, OSError) as error:
            sentence = str(error)
            if not sentence or "\n" in sentence:  # not written for a user: the traceback says more
                raise
            typer.echo(sentence, err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    name="tokenmerge",
    cls=OneSentence,
    help="Token merging for transformers, the same in NumPy, PyTorch and JAX.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """The entry point."""
    for stream in (sys.stdout, sys.stderr):  # an encoding without arrows gets question marks, and no error at the end
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app()


@app.callback()
def _options() -> None:
    """Keep every command a subcommand, however many there are."""


@app.command()
def backends() -> None:
    """List the backends: version, devices and dtypes, or how to install."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tokenmerge.backends import available_backends

    table = Table("backend", "version", "devices", "dtypes", "own kernels", box=SIMPLE_HEAD)
    missing = []
    for info in available_backends().values():
        if info.available:
            cells = (info.version or "", ", ".join(info.devices), ", ".join(info.dtypes), info.kernels or "")
            table.add_row(Text(info.name), *map(Text, cells))  # what looks like markup in a name is part of it
        else:
            missing.append(info.install)
            table.add_row(Text(info.name), "not installed", style="dim")
    console = Console()
    console.print(table)
    for sentence in missing:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


@app.command()
def demo(
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="A photograph; else one of matplotlib's.")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the picture goes.")] = Path("tokenmerge-demo.png"),
    backend: Backends = None,
    patch_size: Annotated[int, typer.Option(metavar="PIXELS", help="Width of a patch.")] = 16,
    size: Annotated[int, typer.Option(metavar="PIXELS", help="Width of the photograph, a multiple of it.")] = 448,
) -> None:
    """Merge a photograph with every merger in every backend, compare with the spec, draw the groups."""
    try:
        from tokenmerge.demo import run
    except ModuleNotFoundError as error:
        raise _without_pictures("demo", error) from None

    wrong = [row for row in run(image, out, backend or (), patch_size, size) if not row.agrees]
    for row in wrong:
        typer.echo(f"demo: {row.backend} disagrees with the spec on {row.stage.title}", err=True)
    if wrong:
        raise typer.Exit(1)


@app.command()
def visualize(
    image: Annotated[Path | None, typer.Argument(metavar="IMAGE", help="Else a photograph of matplotlib's.")] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="A network, as timm calls it.")] = "vit_small_patch16_224",
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Safetensors in timm's names; else random parameters.")
    ] = None,
    merger: Merger = "tome",
    r: R = None,
    max_tokens: MaxTokens = None,
    num_tokens_out: NumTokensOut = None,
    compression_ratio: CompressionRatio = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the picture goes.")] = Path("tokenmerge-groups.png"),
    layers: Annotated[bool, typer.Option("--layers", help="A panel for every block that merges.")] = False,
    backend: Annotated[str | None, typer.Option(metavar="NAME", help="Else torch if installed, or numpy.")] = None,
    normalize: Annotated[
        str | None, typer.Option(metavar="NAME", help="imagenet, half or none; else what suits the model.")
    ] = None,
) -> None:
    """Draw the groups that the patches of an image end in, in one network with one merger."""
    try:
        from tokenmerge.visualize import run
    except ModuleNotFoundError as error:
        raise _without_pictures("visualize", error) from None

    options = {
        "r": r,
        "max_tokens": max_tokens,
        "num_tokens_out": num_tokens_out,
        "compression_ratio": compression_ratio,
    }
    run(
        image,
        model=model,
        merger=merger,
        out=out,
        weights=weights,
        every_layer=layers,
        backend=backend,
        normalization=normalize,
        **options,
    )


@app.command()
def conformance(
    backend: Annotated[str, typer.Option(metavar="NAME", help="A known backend, or the dotted name of a module.")] = "",
    device: Annotated[str, typer.Option(metavar="NAME", help="One of the backend's devices; else its default.")] = "",
    dtype: Annotated[str, typer.Option(metavar="NAMES", help="Dtypes with commas between; else all it has.")] = "",
    merger: Annotated[str, typer.Option(metavar="NAMES", help="Mergers with commas between; else all.")] = "",
    level: Annotated[str, typer.Option(metavar="NAME", help="How many examples: quick, ci or deep.")] = "ci",
    seed: Annotated[int | None, typer.Option(help="Of the examples; else the same ones every time.")] = None,
    skips: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Checks to leave out, a line each: check [@ dtype]: reason.")
    ] = None,
    xfails: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Checks that are known to fail, in the same form as --skips.")
    ] = None,
    rules: Annotated[
        str | None, typer.Option(metavar="EDITION", help="Measure against the rules of an edition, such as 2026.12.")
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="A report for machines.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="A report as one page, to look at or show.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Print the rules and the checks that prove them.")] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Show that the suite catches backends broken on purpose.")
    ] = False,
    generated: Annotated[
        bool, typer.Option("--generated", help="With --self-test: mutants that operators make of the NumPy backend.")
    ] = False,
    sample: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", min=1, help="With --generated: so many of them, drawn with the seed."),
    ] = None,
) -> None:
    """Prove that a backend agrees with the spec, or show where it does not.

    Exit status: 0 if every check passed, 1 if one failed or a merger was not looked at, 2 for a mistake in the
    command, 3 for an error of the suite itself, 130 after Ctrl-C.
    """
    if sys.flags.optimize >= 2:
        raise ValueError("conformance: Python must keep docstrings, which hold the rules, got -OO")
    try:
        from tokenmerge.conformance import command
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        raise ImportError("conformance needs hypothesis: pip install hypothesis") from None

    def names(option: str) -> tuple[str, ...]:
        return tuple(name.strip() for name in option.split(",") if name.strip())

    given: dict[str, Any] = {"--skips": skips, "--json": json, "--html": html, "--backend": backend or None}
    given |= {"--xfails": xfails, "--rules": rules}
    given |= {"--device": device or None, "--dtype": dtype or None, "--seed": seed if show else None}
    alone = "--list" if show else "--self-test" if self_test else ""
    extra = [name for name, value in given.items() if alone and value is not None]
    if extra or (show and self_test):
        raise ValueError(f"conformance: {alone} must be without {', '.join(extra) or '--self-test'}")
    if show:
        raise typer.Exit(command.print_rules(names(merger)))
    if (generated and not self_test) or (sample is not None and not generated):
        missing = "--generated" if self_test else "--self-test"
        raise ValueError(f"conformance: {'--generated' if generated else '--sample'} must be with {missing}")
    if generated:
        from rich.console import Console

        from tokenmerge.conformance.mutants.generated.run import run_generated

        raise typer.Exit(run_generated(Console(), sample, seed))
    if self_test:
        from tokenmerge.conformance.self_test import run_self_test

        raise typer.Exit(run_self_test(level, seed, names(merger)))
    if not backend:
        raise ValueError("conformance: --backend must be given (`tokenmerge backends` lists those that are known)")
    status = command.conformance(
        backend,
        device=device or None,
        dtypes=names(dtype),
        mergers=names(merger),
        level=level,
        seed=seed,
        skips=skips,
        xfails=xfails,
        law=rules,
        json=json,
        html=html,
    )
    raise typer.Exit(status)


def _without_pictures(command: str, error: ModuleNotFoundError) -> ImportError:
    """What to say when a module is missing: how to install it, if it is one that draws."""
    if (error.name or "").partition(".")[0] not in ("matplotlib", "PIL"):
        return error
    return ImportError(f"{command} needs matplotlib and pillow: pip install matplotlib pillow")


app.command()(train)


@app.command()
def evaluate(
    dataset: Annotated[str, typer.Argument(help="digits: the network of `tokenmerge train digits`.")],
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="Parameters; else those that we ship.")] = None,
    backend: Backends = None,
    merger: Annotated[list[str] | None, typer.Option(metavar="NAME", help="May be repeated; else all of them.")] = None,
    fine_tune: Annotated[int, typer.Option(metavar="EPOCHS", help="Also train with each merger, this long.")] = 0,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Accuracy against work, as a picture.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="The rows, for machines.")] = None,
) -> None:
    """Run the trained network with every merger at several rates in every backend, image by image.

    Exit status 1 if a backend predicts otherwise than the first one and the image is no certified near-tie.
    """
    check_dataset("evaluate", dataset)
    from tokenmerge.digits.command import evaluate_digits

    rows = evaluate_digits(weights, tuple(backend or ()), tuple(merger or ()), fine_tune, plot, json)
    if any(row.differ != row.near_ties for row in rows):
        raise typer.Exit(1)


@app.command()
def bench(
    operation: Annotated[
        list[str] | None,
        typer.Argument(
            help="tome, plan, merge, unmerge, attention, ats, patch_merger, ltm, "
            "vit-tome, vit-ats, vit-patch_merger, growth, small; else tome."
        ),
    ] = None,
    backend: Backends = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="One of the backend's devices.")] = None,
    dtype: Annotated[str, typer.Option(metavar="NAME", help="One of the backend's dtypes.")] = "float32",
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="B=8,N=197,...", help="May be repeated; else the shapes of docs/performance.md."),
    ] = None,
    network: Annotated[str, typer.Option(metavar="NAME", help="Of a whole network.")] = "vit_base_patch16_224",
    seconds: Annotated[float, typer.Option(help="For each comparison.")] = 2.0,
    threads: Annotated[int | None, typer.Option(help="Of PyTorch; else OMP_NUM_THREADS or all cores.")] = None,
    graph: Annotated[
        bool, typer.Option("--graph", help="Capture PyTorch's calls on a GPU in CUDA graphs: no time to launch.")
    ] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Also ours through torch.compile, against ours without.")
    ] = False,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="The rows, for machines.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="The rows as a picture.")] = None,
) -> None:
    """Time operators and networks against the textbook, other packages, and what the machine can do."""
    from tokenmerge.bench.command import bench as run
    from tokenmerge.bench.request import Request

    asked = Request(
        names=tuple(operation or ("tome",)),
        backends=tuple(backend or ()),
        device=device,
        dtype=dtype,
        shapes=tuple(shape or ()),
        network=network,
        seconds=seconds,
        threads=threads,
        graph=graph,
        compiled=compiled,
        json=json,
        plot=plot,
    )
    try:
        run(asked)
    except ModuleNotFoundError as error:
        raise _without_pictures("bench", error) from None


@app.command()
def export(
    model: Annotated[
        str, typer.Argument(help="A name of timm, a folder or name of Hugging Face, tokenmerge:NAME, or a .pt file.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the model goes.")],
    format: Annotated[
        str, typer.Option(metavar="NAME", help="onnx, openvino, executorch, aoti, torch-export or stablehlo.")
    ] = "onnx",
    merger: Merger = "none",
    r: R = None,
    max_tokens: MaxTokens = None,
    num_tokens_out: NumTokensOut = None,
    compression_ratio: CompressionRatio = None,
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="Safetensors; else random parameters.")] = None,
    batch: Annotated[int | None, typer.Option(metavar="NUMBER", help="Images in a call; else any number.")] = None,
    dtype: Annotated[str, typer.Option(metavar="NAME", help="float32, float16 or bfloat16.")] = "float32",
    int8: Annotated[bool, typer.Option("--int8", help="onnx: linear maps in eight bits.")] = False,
    with_plans: Annotated[bool, typer.Option("--with-plans", help="The composed plan comes out, too.")] = False,
    opset: Annotated[int | None, typer.Option(metavar="NUMBER", help="Of ONNX; else the exporter's own.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="To compare on, may be repeated; else a portrait.")
    ] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option(metavar="NUMBER", help="To time with, may be repeated; else 1 and 8.")
    ] = None,
    threads: Annotated[int | None, typer.Option(metavar="NUMBER", help="Of the runtime; else its own choice.")] = None,
    seconds: Annotated[float, typer.Option(help="For each timing.")] = 2.0,
) -> None:
    """Write a model with a merger in it for another runtime, and hold the file against eager PyTorch.

    Exit status: 0 if the file agrees, 1 if it does not, 2 for a mistake in the command.
    """
    from tokenmerge.commands.needs import require_torch

    require_torch("export")
    from tokenmerge.deploy.command import run
    from tokenmerge.deploy.request import Request

    agrees = run(
        model,
        Request(out, format, batch, dtype, int8, with_plans, opset),
        merger=merger,
        weights=weights,
        images=tuple(image or ()),
        batches=tuple(batch_size or (1, 8)),
        threads=threads,
        seconds=seconds,
        r=r,
        max_tokens=max_tokens,
        num_tokens_out=num_tokens_out,
        compression_ratio=compression_ratio,
    )
    if not agrees:
        raise typer.Exit(1)
