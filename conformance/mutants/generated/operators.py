"""Operators: every one makes from an expression or a statement the wrong ones that somebody could have written."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

Made = Iterator[tuple[str, str]]  # name of the operator, text in the place of the node

COMPARISONS: dict[type[ast.cmpop], str] = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!="}
ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "+",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "//",
}
OTHER_NAME = {
    "argmax": "argmin",
    "argmin": "argmax",
    "max": "min",
    "min": "max",
    "minimum": "maximum",
    "maximum": "minimum",
    "zeros": "ones",
    "zeros_like": "ones_like",
    "ones": "zeros",
    "ones_like": "zeros_like",
    "floor_divide": "divide",
    "float64": "float32",
    "float32": "float16",
    "intp": "int8",
    "sqrt": "square",
    "square": "abs",
    "isneginf": "isinf",
}
DROPPED = ("mask", "size", "kind", "initial", "where", "stable")  # keyword arguments that a call does without


def of_compare(node: ast.expr) -> Made:
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        sign = COMPARISONS[type(node.ops[0])]
        yield "comparison", f"{ast.unparse(node.left)} {sign} {ast.unparse(node.comparators[0])}"


def of_arithmetic(node: ast.expr) -> Made:
    if isinstance(node, ast.BinOp):
        left, right = ast.unparse(node.left), ast.unparse(node.right)
        if type(node.op) in ARITHMETIC:
            yield "arithmetic", f"({left}) {ARITHMETIC[type(node.op)]} ({right})"
        if isinstance(node.op, ast.BitAnd | ast.BitOr):
            yield "condition", left
            yield "condition", right
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert | ast.Not | ast.USub):
        if not isinstance(node.operand, ast.Constant):
            yield "sign", ast.unparse(node.operand)
    if isinstance(node, ast.BoolOp):
        for value in node.values:
            yield "condition", ast.unparse(value)


def of_constant(node: ast.expr) -> Made:
    if not isinstance(node, ast.Constant) or isinstance(node.value, bool):
        return
    if isinstance(node.value, int):
        yield "bound", str(node.value - 1 if node.value > 0 else 1)
    elif isinstance(node.value, float):
        yield "constant", repr(node.value * 2)


def of_choice(node: ast.expr) -> Made:
    if isinstance(node, ast.IfExp):
        yield "branch", ast.unparse(node.body)
        yield "branch", ast.unparse(node.orelse)


def of_call(node: ast.expr) -> Made:
    """Other functions, other axes, arguments left out, conversions left out."""
    if not isinstance(node, ast.Call):
        return
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if isinstance(node.func, ast.Attribute):
        if name in OTHER_NAME:
            arguments = ", ".join(map(ast.unparse, [*node.args, *node.keywords]))
            yield "function", f"{ast.unparse(node.func.value)}.{OTHER_NAME[name]}({arguments})"
        if name == "astype":
            yield "dtype", ast.unparse(node.func.value)
        if name == "where" and len(node.args) == 3:
            yield "branch", ast.unparse(node.args[1])
            yield "branch", ast.unparse(node.args[2])
    if name == "working_dtype" and len(node.args) == 1:
        yield "dtype", f"{ast.unparse(node.args[0])}.dtype"
    if name == "safe_divide":
        yield "function", " / ".join(f"({ast.unparse(argument)})" for argument in node.args)
    for place, keyword in enumerate(node.keywords):
        others = [*node.args, *node.keywords[:place], *node.keywords[place + 1 :]]
        without = f"{ast.unparse(node.func)}({', '.join(map(ast.unparse, others))})"
        if keyword.arg in DROPPED:
            yield f"{keyword.arg} dropped", without
        if keyword.arg == "axis" and isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, int):
            axis = keyword.value.value
            more = ", " if others else ""
            yield "axis", f"{without[:-1]}{more}axis={axis - 1 if axis > 0 else axis + 1})"
    for argument in node.args:
        if isinstance(argument, ast.Name) and argument.id in ("size", "mask") and name not in ("where", "check"):
            given = [ast.Constant(None) if each is argument else each for each in node.args]
            arguments = ", ".join(map(ast.unparse, [*given, *node.keywords]))
            yield f"{argument.id} dropped", f"{ast.unparse(node.func)}({arguments})"


def of_attribute(node: ast.expr) -> Made:
    if isinstance(node, ast.Attribute) and node.attr in ("float32", "float64", "intp"):
        yield "dtype", f"{ast.unparse(node.value)}.{OTHER_NAME[node.attr]}"


EXPRESSIONS: tuple[Callable[[ast.expr], Made], ...] = (
    of_compare,
    of_arithmetic,
    of_constant,
    of_choice,
    of_call,
    of_attribute,
)


def of_statement(node: ast.stmt) -> Made:
    """Statements left out, and conditions that always or never hold."""
    if isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)):
        yield "left out", "pass"
    if isinstance(node, ast.Assign):
        target = node.targets[0]
        if isinstance(target, ast.Subscript):
            yield "left out", "pass"
        elif isinstance(target, ast.Name) and any(
            isinstance(each, ast.Name) and each.id == target.id for each in ast.walk(node.value)
        ):
            yield "left out", "pass"  # `x = f(x)`
