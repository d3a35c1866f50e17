"""What a failure shows of itself: the shrunk input for people, and a program that runs the whole check again."""

from __future__ import annotations

import numpy as np

from tokenmerge.conformance.case import Case


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
