"""Mutants that write themselves: operators go through the NumPy backend's source and change one place each.

Nobody chose them, so they measure what the suite sees. Those that no input can tell from the correct backend stand in
`equivalent.txt`, with the reason. Whatever else survives is a hole in the suite; those that are known stand in
`holes.txt`.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from tokenmerge.conformance.mergers import MERGERS
from tokenmerge.conformance.mutants.edited import edited
from tokenmerge.conformance.mutants.generated.inputs import changes
from tokenmerge.conformance.mutants.generated.operators import EXPRESSIONS, of_statement
from tokenmerge.conformance.mutants.generated.splice import Splice, splice

BACKEND = "tokenmerge.backends.numpy"
# file -> the rooms of the suite in which a change can show
NAMES = tuple(MERGERS)
PLANS = ("plan", "composition")
LEARNED = tuple(name for name, proof in MERGERS.items() if proof.description.parameters)
FILES: dict[str, tuple[str, ...]] = {
    "plan": (*NAMES, *PLANS),
    "precision": (*NAMES, "attention", "information_bottleneck"),
    "merger": LEARNED,
    **{name: (name,) for name in NAMES},
    "matching": ("tome",),
    "attention": ("attention",),
    "pooling": ("attention",),
    "information_bottleneck": ("information_bottleneck",),
}
OF_CLASS = {
    "PartitionPlan": ("tome", *PLANS),
    "SelectionPlan": ("ats", *PLANS),
    "DensePlan": (*LEARNED, *PLANS),
}
ELSEWHERE = ("draw_permutation", "draw_uniforms", "draw_noise", "chain")  # not what the suite judges
EQUIVALENT = Path(__file__).with_name("equivalent.txt")
HOLES = Path(__file__).with_name("holes.txt")


@dataclass(frozen=True)
class Generated:
    """One change of one place.

    Args:
        name: `file.function operator: old -> new`, of changed arguments `file.function argument operator`, with `#2`
            behind the second of a name; the same as long as the function is.
        operator: which one made it.
        rooms: of the suite, where it can show.
        change: of the source.
    """

    name: str
    operator: str
    rooms: tuple[str, ...]
    change: Splice

    @contextmanager
    def built(self) -> Iterator[ModuleType]:
        """The changed backend."""
        with edited(BACKEND, "mutant", (self.change,)) as module:
            yield module


@cache
def generated() -> dict[str, Generated]:
    """Every mutant by name, in the order of the source.

    >>> len(generated()) > 500
    True
    """
    found: dict[str, Generated] = {}
    seen: Counter[str] = Counter()
    for file, rooms in FILES.items():
        origin = find_spec(f"{BACKEND}.{file}")
        assert origin is not None and origin.origin is not None
        source = Path(origin.origin).read_text(encoding="utf-8")
        for function, operator, change in _changes(file, source):
            old, new = (" ".join(text.split()) for text in (change.old, change.new))
            name = f"{file}.{function} {operator}" + (f": {_short(old)} -> {_short(new)}" if old else "")
            seen[name] += 1
            name += f" #{seen[name]}" if seen[name] > 1 else ""
            own = OF_CLASS.get(function.partition(".")[0], rooms)
            found[name] = Generated(name, operator, own, change)
    return found


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:60]} … {text[-30:]}"


def _changes(file: str, source: str) -> Iterator[tuple[str, str, Splice]]:
    """Function, operator and change, in the order of the source."""
    for function, definition in _functions(ast.parse(source)):
        if definition.name in ELSEWHERE or isinstance(definition.body[-1], ast.Raise):
            continue
        yield from ((function, operator, change) for operator, change in _of_arguments(file, source, definition))
        defaults = [*definition.args.defaults, *(each for each in definition.args.kw_defaults if each is not None)]
        for node in _inside([*defaults, *definition.body]):
            made = of_statement(node) if isinstance(node, ast.stmt) else _of_expression(node)
            for operator, new in made:
                change = splice(file, source, node, new if isinstance(node, ast.stmt) else f"({new})")
                if not _alike(change):
                    yield function, operator, change


def _of_expression(node: ast.expr) -> Iterator[tuple[str, str]]:
    for operator in EXPRESSIONS:
        yield from operator(node)


def _alike(change: Splice) -> bool:
    """Whether the new text says the same as the old one."""
    if change.new == "pass":
        return False
    return ast.dump(ast.parse(change.old.strip(), mode="eval")) == ast.dump(ast.parse(change.new, mode="eval"))


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{each.name}", each) for each in node.body if isinstance(each, ast.FunctionDef))


def _inside(nodes: list[ast.expr | ast.stmt]) -> Iterator[ast.expr | ast.stmt]:
    """All nodes below, without annotations, messages of errors, and texts."""
    for node in nodes:
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if text or isinstance(node, ast.Raise | ast.Assert):
            continue
        if isinstance(node, ast.Constant) and not isinstance(node.value, int | float):
            continue
        yield node
        below = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr | ast.stmt)]
        below += [c.value for c in ast.iter_child_nodes(node) if isinstance(c, ast.keyword) and c.arg != "axis"]
        for child in ast.iter_child_nodes(node):
            below += [child.iter, *child.ifs] if isinstance(child, ast.comprehension) else []
        if isinstance(node, ast.AnnAssign):
            below = [child for child in below if child is not node.annotation]
        yield from _inside(below)


def _read(definition: ast.FunctionDef) -> set[str]:
    """Names that a function does more with than having them checked."""
    checks = [
        node
        for node in ast.walk(definition)
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("check.", "arguments.", "self._check"))
    ]
    checked = {id(name) for call in checks for name in ast.walk(call)}
    return {node.id for node in ast.walk(definition) if isinstance(node, ast.Name) and id(node) not in checked}


def _of_arguments(file: str, source: str, definition: ast.FunctionDef) -> Iterator[tuple[str, Splice]]:
    """Changes of array arguments, in front of the first statement that is not a docstring."""
    body = definition.body
    documented = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    first = body[1:][0] if documented and len(body) > 1 else body[0]
    if documented and len(body) == 1:
        return
    arguments = definition.args
    for argument in (*arguments.args, *arguments.kwonlyargs):
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        if not annotation.startswith("Array") or argument.arg not in _read(definition):
            continue
        for operator, wrong in changes(argument.arg):
            guard = f"{argument.arg} = {argument.arg} if not isinstance({argument.arg}, np.ndarray) else {wrong}\n"
            old = ast.get_source_segment(source, first)
            assert old is not None
            start = (first.lineno, first.col_offset)
            yield (
                f"{argument.arg} {operator}",
                Splice(file, "", guard + " " * first.col_offset, start=start, end=start),
            )
