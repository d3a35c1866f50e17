"""What a failure shows of itself: the shrunk input for people, and a program that runs the whole check again."""

from __future__ import annotations

import re

import numpy as np

from tokenmerge.conformance.case import Case, run_case
from tokenmerge.conformance.judge import judge
from tokenmerge.conformance.subject import Mismatch, Subject

FITS = 5000  # characters of a program that a terminal can show
_EXAMPLE = re.compile(r"reproduce_failure\('[^']*', (b'[^']*')\)")


def told(error: BaseException) -> tuple[list[str], str]:
    """What Hypothesis wrote beside an error: sentences for people, and the example as bytes in Python's notation."""
    sentences, example = [], ""
    for note in getattr(error, "__notes__", []):
        found = _EXAMPLE.search(note)
        if found:
            example = found[1]
        else:
            sentences.append(note)
    return sentences, example


def own_program(error: Mismatch, subject: Subject) -> str:
    """The program that came with a failure, if it can be read in a terminal and shows what is wrong; else ""."""
    if len(error.snippet) > FITS:
        return ""
    if error.case is None:
        return error.snippet
    try:
        outcome = run_case(error.case, subject.module, subject.dtype, subject.device)
        silent = judge(error.case, outcome, "exact=True" in error.snippet).certified
    except (Exception, SystemExit):  # a backend may do anything
        return error.snippet
    return "" if silent else error.snippet  # what is wrong is not in a single call


def replay_program(backend: str, check: str, dtype: str, device: str | None, level: str, example: str) -> str:
    """A program that runs a check on one example, which is the choices that were drawn: seeds, shapes and options.

    >>> print(replay_program("numpy", "tome-odd", "float32", None, "ci", "b'AAE='"))
    from tokenmerge.conformance.runner import replay
    <BLANKLINE>
    print(replay('numpy', 'tome-odd', 'float32', b'AAE='))
    """
    options = {"device": device, "level": level if level != "ci" else None}
    given = "".join(f", {name}={value!r}" for name, value in options.items() if value is not None)
    program = f"print(replay({backend!r}, {check!r}, {dtype!r}, {example}{given}))"
    return f"from tokenmerge.conformance.runner import replay\n\n{program}"


def shown(case: Case, dtype: str) -> str:
    """A case for people: its options, then every array, long ones with dots in the middle.

    >>> print(shown(Case("tome", {"r": 1}, {"x": np.zeros((1, 2, 1))}), "float32"))
    tome(r=1) in float32
    x (1, 2, 1) =
    [[[0.]
      [0.]]]
    """
    options = ", ".join(f"{name}={value!r}" for name, value in case.config.items())
    lines = [f"{case.merger}({options}) in {dtype}"]
    for name, array in {**case.inputs, **case.params}.items():
        text = np.array2string(array, precision=4, threshold=160, edgeitems=2, max_line_width=88)
        lines += [f"{name} {array.shape} =", text]
    return "\n".join(lines)


def repeat_program(backend: str, check: str, dtype: str, device: str | None, level: str, seed: int | None) -> str:
    """A program that runs a check again with the same examples.

    >>> print(repeat_program("numpy", "tome-exact", "float32", None, "quick", None))
    from tokenmerge.conformance.runner import repeat
    <BLANKLINE>
    print(repeat('numpy', 'tome-exact', 'float32', level='quick').message)
    """
    options = {"device": device, "level": level if level != "ci" else None, "seed": seed}
    given = "".join(f", {name}={value!r}" for name, value in options.items() if value is not None)
    return (
        "from tokenmerge.conformance.runner import repeat\n\n"
        f"print(repeat({backend!r}, {check!r}, {dtype!r}{given}).message)"
    )
