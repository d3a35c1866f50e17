"""A change of a file by place: what stands between two positions is replaced."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from tokenmerge.conformance.mutants.edited import Edit


@dataclass(frozen=True)
class Splice(Edit):
    """`old`, which stands from one position to another, becomes `new`.

    Args:
        start, end: line, counted from 1, and column, as in a syntax tree; both (0, 0) for an edit by its text.
    """

    start: tuple[int, int] = (0, 0)
    end: tuple[int, int] = (0, 0)

    def apply(self, source: str) -> str:
        """The changed source.

        >>> Splice("tome", "b", "c", start=(2, 4), end=(2, 5)).apply("a = b\\nb = b\\n")
        'a = b\\nb = c\\n'
        """
        lines = source.splitlines(keepends=True)
        starts = [0]
        for line in lines:
            starts.append(starts[-1] + len(line))
        first, last = (starts[line - 1] + column for line, column in (self.start, self.end))
        if source[first:last] != self.old:
            raise ValueError(f"mutant: `old` must stand at {self.start} in {self.file}.py, got {source[first:last]!r}")
        return source[:first] + self.new + source[last:]


def splice(file: str, source: str, node: ast.expr | ast.stmt, new: str) -> Splice:
    """The change of one node of a file's syntax tree."""
    old = ast.get_source_segment(source, node)
    assert old is not None and node.end_lineno is not None and node.end_col_offset is not None
    end = (node.end_lineno, node.end_col_offset)
    return Splice(file, old, new, start=(node.lineno, node.col_offset), end=end)
