"""The command line: `tokenmerge demo`, `tokenmerge conformance`, `tokenmerge backends`.

A command imports what it needs when it runs, so that `tokenmerge --help` loads no framework.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


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

    from tokenmerge.backends import available_backends

    table = Table("backend", "version", "devices", "dtypes", box=SIMPLE_HEAD)
    missing = []
    for info in available_backends().values():
        if info.available:
            table.add_row(info.name, info.version, ", ".join(info.devices), ", ".join(info.dtypes))
        else:
            missing.append(info.install)
            table.add_row(info.name, "not installed", style="dim")
    console = Console()
    console.print(table)
    for sentence in missing:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


@app.command()
def demo(
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="A photograph; else one of matplotlib's.")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the picture goes.")] = Path("tokenmerge-demo.png"),
    backend: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="May be repeated; else every installed one.")
    ] = None,
    patch_size: Annotated[int, typer.Option(metavar="PIXELS", help="Width of a patch.")] = 16,
    size: Annotated[int, typer.Option(metavar="PIXELS", help="Width of the photograph, a multiple of it.")] = 448,
) -> None:
    """Merge a photograph with every merger in every backend, compare with the spec, draw the groups."""
    try:
        from tokenmerge.demo import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("matplotlib", "PIL"):
            raise
        raise ImportError('demo needs matplotlib and pillow: pip install "tokenmerge[viz]"') from None

    wrong = [row for row in run(image, out, backend or (), patch_size, size) if not row.agrees]
    for row in wrong:
        typer.echo(f"demo: {row.backend} disagrees with the spec on {row.stage.title}", err=True)
    if wrong:
        raise typer.Exit(1)


@app.command()
def conformance(
    backend: Annotated[str, typer.Option(metavar="NAME", help="A known backend, or the dotted name of a module.")] = "",
    device: Annotated[str, typer.Option(metavar="NAME", help="One of the backend's devices; else its default.")] = "",
    dtype: Annotated[str, typer.Option(metavar="NAMES", help="Dtypes with commas between; else all it has.")] = "",
    merger: Annotated[str, typer.Option(metavar="NAMES", help="Mergers with commas between; else all.")] = "",
    level: Annotated[str, typer.Option(metavar="LEVEL", help="How many examples: quick, ci or deep.")] = "ci",
    seed: Annotated[int | None, typer.Option(help="Of the examples; else the same ones every time.")] = None,
    skips: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Checks to leave out, a line each: check [@ dtype]: reason.")
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="A report for machines.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="A report as one page, to look at or show.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Print the rules and the checks that prove them.")] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Show that the suite catches backends broken on purpose.")
    ] = False,
) -> None:
    """Prove that a backend agrees with the spec, or show where it does not.

    Exit status: 0 if every check passed, 1 if one failed, 2 for a mistake in the command, 130 after Ctrl-C.
    """
    try:
        from tokenmerge.conformance import command
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        raise ImportError('conformance needs hypothesis: pip install "tokenmerge[conformance]"') from None

    def names(option: str) -> tuple[str, ...]:
        return tuple(name.strip() for name in option.split(",") if name.strip())

    given = {"--skips": skips, "--json": json, "--html": html, "--backend": backend or None}
    alone = "--list" if show else "--self-test" if self_test else ""
    extra = [name for name, value in given.items() if alone and value is not None]
    if extra or (show and self_test):
        raise ValueError(f"conformance: {alone} must be without {', '.join(extra) or '--self-test'}")
    if show:
        raise typer.Exit(command.print_rules(names(merger)))
    if self_test:
        from tokenmerge.conformance.self_test import run_self_test

        raise typer.Exit(run_self_test(level, seed))
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
        json=json,
        html=html,
    )
    raise typer.Exit(status)
