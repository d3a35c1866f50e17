"""The table that the demo prints."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from tokenmerge.demo.compare import REPEATS, Row

NOTES = (
    "decisions: which tokens merge or stay. near-tie: the spec, in float64, decides otherwise, but this is certified "
    "to be as good within rounding.",
    "rounding: the largest difference from the spec; 1.00 is the largest that rounding in float32 explains.",
    f"ms: median of {REPEATS} calls, warm and compiled, all layers together. ToMe's layers are judged one by one, each "
    "on the tokens that the spec made.",
    "Nothing is trained: PatchMerger's queries are k-means centres of the tokens; LTM's weight is one constant for "
    "colour and texture, its prior square windows; the class token's query in ATS asks for the middle of the photo.",
)


def table(rows: Iterable[Row]) -> Table:
    """Every merger in every backend, against the spec."""
    made = Table(box=SIMPLE_HEAD, caption="\n".join(NOTES), caption_justify="left", caption_style="dim")
    made.add_column("merger")
    made.add_column("tokens", justify="right")
    made.add_column("backend")
    made.add_column("decisions")
    made.add_column("rounding", justify="right")
    made.add_column("ms", justify="right")
    before = None
    for row in rows:
        new = row.stage is not before
        if new and before is not None:
            made.add_section()
        before = row.stage
        budget = Text(f"{row.budget_used:.2f}", style="" if row.budget_used <= 1 else "bold red")
        made.add_row(
            row.stage.title if new else "",
            f"{row.tokens_in} → {row.tokens_out}",
            row.backend,
            _decisions(row),
            budget,
            f"{row.milliseconds:.1f}",
        )
    return made


def _decisions(row: Row) -> Text:
    if not row.certified:
        return Text("wrong", style="bold red")
    if row.decisions_equal is None:
        return Text("none", style="dim")
    return Text("as the spec", style="green") if row.decisions_equal else Text("near-tie", style="yellow")
