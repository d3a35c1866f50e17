"""Options that several commands take: one declaration, one sentence of help. Left out, each is None."""

from __future__ import annotations

from typing import Annotated

import typer

Merger = Annotated[str, typer.Option(metavar="NAME", help="tome, ats, patch_merger, ltm or none.")]
R = Annotated[str | None, typer.Option("--r", help="tome: tokens to remove per block, or one number each.")]
MaxTokens = Annotated[str | None, typer.Option(metavar="NUMBERS", help="ats: budgets of the first blocks.")]
NumTokensOut = Annotated[int | None, typer.Option(metavar="NUMBER", help="patch_merger: tokens it makes.")]
CompressionRatio = Annotated[
    float | None, typer.Option(metavar="NUMBER", help="ltm: share of the tokens that a block leaves.")
]
Backends = Annotated[list[str] | None, typer.Option(metavar="NAME", help="May be repeated; else every installed one.")]
