"""Export every model with every merger, run the file in ONNX Runtime, compare, and print what came out as Markdown.

    python tools/export_table.py [--write]

`--write` puts the table into docs/guides/deploy.md. It takes some minutes. The exit status is 1 if a file disagrees.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
sys.path.insert(0, str(Path(__file__).parent / "patching"))

import onnx
from exported_models import DEPTH, MODELS, PATCHED, model

from tokenmerge import export
from tokenmerge.deploy.check import agreement, photographs
from tokenmerge.deploy.deployed import gives_plan
from tokenmerge.deploy.source import image_shape

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "deploy.md"
_TABLE = re.compile(r"(<!-- exported -->\n).*?(<!-- /exported -->)", re.DOTALL)
BATCHES = (1, 2, 5)  # images in a call, of one file


class Cell(NamedTuple):
    """What came of one model with one merger: nodes that a block got, or why there is no file."""

    nodes: float = 0
    refused: str = ""
    wrong: str = ""


@cache
def nodes_of_plain(name: str, merger: str) -> int:
    """Nodes of the network that merges nothing; PatchMerger's may have another pooling."""
    plain = MODELS[name]("patch_merger" if merger == "patch_merger" and name != "our ViT" else "none").eval()
    with tempfile.TemporaryDirectory() as folder:
        return nodes_for_logits(export(plain, Path(folder) / "plain.onnx").path)


def nodes_for_logits(file: Path) -> int:
    """Nodes of a file that its first output depends on."""
    graph = onnx.load(file).graph
    wanted = {graph.output[0].name}
    for node in reversed(graph.node):  # which come after what they depend on
        if wanted & set(node.output):
            wanted |= set(node.input)
    return sum(bool(wanted & set(node.output)) for node in graph.node)


def tried(name: str, merger: str) -> Cell:
    """One model with one merger."""
    try:
        made = model(name, merger)
    except ValueError as error:
        return Cell(refused=str(error))
    with tempfile.TemporaryDirectory() as folder:
        with_plans = gives_plan(made, image_shape(made))
        written = export(made, Path(folder) / "model.onnx", with_plans=with_plans)
        nodes, run, pictures = nodes_for_logits(written.path), written.load(1), photographs(written.shape)
        for batch in BATCHES:
            found = agreement(run, run if with_plans else None, made, pictures, batch)
            if not found.good:
                return Cell(wrong=f"{batch} in a call: {found}")
    return Cell((nodes - nodes_of_plain(name, merger)) / (1 if merger == "patch_merger" else DEPTH))


def table(cells: dict[tuple[str, str], Cell]) -> str:
    """Models as rows and mergers as columns; what is refused has its sentence below."""
    sentences = list(dict.fromkeys(cell.refused for cell in cells.values() if cell.refused))

    def shown(cell: Cell) -> str:
        if cell.wrong:
            return "WRONG"
        return f"refused ({sentences.index(cell.refused) + 1})" if cell.refused else f"agrees, {cell.nodes:.0f}"

    lines = [f"| model | {' | '.join(f'`{merger}`' for merger in PATCHED)} |", "|---" * (len(PATCHED) + 1) + "|"]
    for name in dict.fromkeys(name for name, _ in cells):
        lines.append(f"| {name} | {' | '.join(shown(cells[name, merger]) for merger in PATCHED)} |")
    return "\n".join(
        [*lines, "", *(f"{at}. {said.removeprefix('patch: ')}" for at, said in enumerate(sentences, 1)), ""]
    )


def main(*arguments: str) -> int:
    cells: dict[tuple[str, str], Cell] = {}
    for name in MODELS:
        for merger in PATCHED:
            cells[name, merger] = cell = tried(name, merger)
            print(f"{name}, {merger}: {cell}", file=sys.stderr, flush=True)
    made = table(cells)
    if "--write" in arguments:
        PAGE.write_text(_TABLE.sub(lambda block: f"{block[1]}{made}{block[2]}", PAGE.read_text()))
    else:
        print(made)
    return int(any(cell.wrong for cell in cells.values()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
