"""Ask other projects about the rules: `python -m tokenmerge.conformance.others`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tokenmerge.conformance.others import tome, tomesd, vit_pytorch
from tokenmerge.conformance.others.adapter import Adapter
from tokenmerge.conformance.others.page import page
from tokenmerge.conformance.others.verdicts import answers
from tokenmerge.files import write_text

RESULTS = Path(__file__).with_name("results.json")
INDEX: dict[str, Callable[[], Iterator[Adapter]]] = {"vit-pytorch": vit_pytorch.adapters, "tomesd": tomesd.adapters}


def results(extra: Iterator[Adapter] | None = None) -> list[dict[str, Any]]:
    """The answers of every project that is installed, and of those given by path."""
    found = []
    for package, make in INDEX.items():
        try:
            found += list(make())
        except ImportError as error:
            print(f"others: {package} is left out: {error}", file=sys.stderr)
    return [
        {
            "name": adapter.name,
            "version": adapter.version,
            "merger": adapter.merger,
            "answers": [vars(answer) for answer in answers(adapter)],
        }
        for adapter in [*found, *(extra or ())]
    ]


def print_table(console: Console, made: list[dict[str, Any]]) -> None:
    """One table per project."""
    for project in made:
        table = Table(title=f"{project['name']} ({project['version']})", title_justify="left")
        for heading in ("rule", "answer", "note"):
            table.add_column(heading, overflow="fold")
        for answer in project["answers"]:
            table.add_row(answer["rule"], answer["verdict"], answer["note"])
        console.print(table, highlight=False, markup=False)


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; 0 however they look, because no answer is a failure."""
    parser = argparse.ArgumentParser(prog="python -m tokenmerge.conformance.others", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the answers go, too")
    parser.add_argument(
        "--tome", nargs=2, metavar=("FOLDER", "MODULE"), help="a checkout with ToMe's functions in a module"
    )
    parser.add_argument("--page", type=Path, nargs="+", metavar="FILE", help="pages whose tables are written anew")
    given = parser.parse_args(arguments)
    try:
        made = results(tome.adapters(Path(given.tome[0]), given.tome[1]) if given.tome else None)
    except ImportError as error:
        print(error, file=sys.stderr)
        return 2
    print_table(Console(), made)
    if given.json:
        write_text("others", "json", given.json, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    for file in given.page or ():
        write_text("others", "page", file, page(file.read_text(encoding="utf-8"), made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
