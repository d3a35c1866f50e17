"""Patched models, used in all the ways that people use them: `python tools/fuzz/patch.py`.

A family, a merger with options, something around the model and a way to use it are drawn. What comes out has to be
equal to the independent computation (tools/patching/oracle.py; where there is none, to a plain call of the patched
model), or an exception or a warning that begins with `patch:`.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "patching"))

import hf_models
import other_models
import torch
from check import Wrong, same, shaken
from fuzz_run import Tally, main
from oracle import ToMe, hooked
from torch import nn
from uses import COSTLY, USES, Run

from tokenmerge.backends.torch import patch

EPS = float(torch.finfo(torch.float64).eps)
CASES = [(models, name) for models in (hf_models, other_models) for name in models.CASES]
CHEAP = sorted(set(USES) - set(COSTLY))


class Around(nn.Module):
    """Somebody's own module around a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


WRAPPERS: dict[str, Any] = {
    "alone": lambda model: model,
    "DataParallel": nn.DataParallel,
    "a module around it": Around,
    "two modules around it": lambda model: Around(Around(model)),
}


def draw_merger(generator: np.random.Generator) -> tuple[str, dict[str, Any]]:
    """A merger and its options."""
    r: Any = [3, (3, -0.5), [2, 0, 3], 1, 0, 0.2][generator.integers(6)]
    name = str(generator.choice(["tome"] * 5 + ["ats", "ltm", "patch_merger"]))
    options: dict[str, Any] = {
        "tome": {"r": r},
        "ats": {"max_tokens": [[9, 6], [4], [7, 7, 5]][generator.integers(3)]},
        "ltm": {"compression_ratio": 0.6},
        "patch_merger": {"num_tokens_out": 4},
    }[name]
    if name in ("tome", "ltm") and generator.random() < 0.2:
        options["around"] = [None, "mlp", "block"][generator.integers(3)]
    if generator.random() < 0.4:
        options["restore"] = True
    return name, options


def one(generator: np.random.Generator, tally: Tally) -> None:
    """One model, one merger, one wrapper, one use."""
    models, name = CASES[generator.integers(len(CASES))]
    merger, options = draw_merger(generator)
    wrapper = str(generator.choice(list(WRAPPERS)))
    use = str(generator.choice(COSTLY if generator.random() < 0.04 else CHEAP))
    inside = bool(generator.random() < 0.3)
    text = f"{name}, {merger} {options}, {wrapper}{', patched inside' if inside else ''}, {use}"
    case = models.CASES[name]
    model = shaken(case.build())
    epsilon = float(torch.finfo(torch.float32).eps) if case.float32 else EPS
    run = Run(WRAPPERS[wrapper](model), model, case.inputs(), epsilon)
    said: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                outcome = _compared(run, use, models, case, (merger, options), inside)
            finally:
                said = [str(each.message) for each in caught]
    except Wrong as error:
        tally.add("different", f"{text}: {error}")
        return
    except Exception as error:
        ours = "patch: " in str(error)
        if not ours and any(each.startswith("patch:") for each in said):
            tally.add("warned")  # the library's own error, after our warning
            return
        tally.add("refused" if ours else "traceback", "" if ours else f"{text}: {type(error).__name__}: {error}"[:600])
        return
    if outcome == "equal" or any(each.startswith("patch:") for each in said):
        tally.add("equal" if outcome == "equal" else "warned")
    else:
        tally.add("different", f"{text}: {outcome}")


def blocks_of(models: Any, model: nn.Module) -> Any:
    """The blocks of a model; without any if it has none that are known, and then nothing may come of it."""
    try:
        return models.blocks_of(model)
    except LookupError:
        return []


def _compared(run: Run, use: str, models: Any, case: Any, merging: tuple[str, dict[str, Any]], inside: bool) -> str:
    """ "equal", or what is different."""
    merger, options = merging
    function = USES[use]
    place = options.get("around")
    known = merger == "tome" and place != "block" and not isinstance(options["r"], float)
    wanted: Any = None
    with torch.no_grad():
        if known:
            blocks = blocks_of(models, run.model)
            with hooked(ToMe(blocks, options["r"] if blocks else 0, case.prefix, around_mlp=place == "mlp")):
                wanted = run.call(run.top)
    before = run.before(use)
    with patch(run.model if inside else run.top, merger, **options) as handle:
        if not known:
            with torch.no_grad():
                wanted, handle_of = run.call(run.top), None
        else:
            handle_of = handle
        got = function(run, handle, before)
        if got is None:
            return "equal"
        try:
            same(got, wanted, run.epsilon, handle_of)
        except (Wrong, ValueError) as error:
            return str(error)
    return "equal"


if __name__ == "__main__":
    sys.exit(main("patch", ("equal", "warned", "refused", "different", "traceback"), one))
