"""Patch every family, small and with random weights, compare, and print what came out as Markdown.

    python tools/patch_table.py [--write]

`--write` writes docs/guides/patched-models.md. It takes some minutes. The exit status is 1 if anything differs.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
sys.path.insert(0, str(Path(__file__).parent / "patching"))

import hf_models
import other_models
import timm_models
from check import Found, Wrong, check, refused, shaken

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "patched-models.md"
INTRODUCTION = """\
# Patched models

Made by `python tools/patch_table.py --write`, which builds each of these models small and with random weights, patches
it, and compares what it gives with an independent computation: the model as it is, with all of its tokens, where those
that merge are replaced by their mean. It also looks at `r=0` and at the model after `remove()`, which have to be the
same to the last bit. ATS is compared where a model has a class token.

| outcome | what it means |
|---|---|
| accepted | with `patch(model, "tome", r=...)` it gives what the independent computation gives |
| restored | the same with `restore=True`: somebody around it needs all tokens; "why" is what is said without |
| around | the same with `around="mlp"`, where only the MLPs are given means; "why" is what is said of any other place |
| refused | what is under "why", and the model is as it was |
"""


def found(model: Any, case: Any, models: Any) -> Found:
    """One model, tried."""
    model = shaken(model)
    try:
        blocks = models.blocks_of(model)
    except LookupError:
        return refused(model)
    return check(model, case.inputs(), blocks, case.prefix, case.float32)


def tried(models: Any) -> Iterator[tuple[str, Found]]:
    """All cases of one kind."""
    for name, case in models.CASES.items():
        yield name, _tried(name, case.build(), case, models)


def _tried(name: str, model: Any, case: Any, models: Any) -> Found:
    try:
        return found(model, case, models)
    except Exception as error:
        kind = "different" if isinstance(error, Wrong) else type(error).__name__
        print(f"{name}: {kind}: {error}", file=sys.stderr)
        return Found("WRONG", f"{kind}: {error}"[:200])


def tried_of_timm() -> Iterator[tuple[str, Found]]:
    """All names of timm. A name whose options leave no small model is tried as it is."""
    for name in timm_models.names():
        case = timm_models.case(name)
        try:
            model = case.build()
        except Exception as error:
            yield name, Found("not built", f"{type(error).__name__}: {error}"[:120])
            continue
        front = getattr(model, "num_prefix_tokens", 1)
        case = timm_models.Case(case.build, case.inputs, front)
        yield name, _tried(name, model, case, timm_models)


def rows(results: list[tuple[str, Found]]) -> Iterator[str]:
    """A table of models."""
    yield "| model | outcome | compared | why |"
    yield "|---|---|---|---|"
    for name, each in results:
        yield f"| {name} | {each.outcome} | {', '.join(each.compared)} | {cell(each.sentence)} |"


def cell(sentence: str) -> str:
    """A sentence in a table."""
    return sentence.removeprefix("patch: ").replace("|", "\\|").replace("\n", " ")


def timm_rows(results: list[tuple[str, Found]]) -> Iterator[str]:
    """A table of timm's modules: how many names, and of those that are not accepted, which and why."""
    by_outcome: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, each in results:
        by_outcome[each.outcome, each.sentence if each.outcome != "accepted" else ""].append(name)
    yield "| names | outcome | which | why |"
    yield "|---|---|---|---|"
    for (outcome, sentence), names in sorted(by_outcome.items(), key=lambda item: -len(item[1])):
        yield f"| {len(names)} | {outcome} | {' '.join(names)} | {cell(sentence)} |"


def page() -> tuple[str, bool]:
    """The page, and whether all is well."""
    hugging_face, others, of_timm = list(tried(hf_models)), list(tried(other_models)), list(tried_of_timm())
    good = sum(each.outcome in ("accepted", "restored") for _, each in hugging_face)
    accepted = sum(each.outcome == "accepted" for _, each in of_timm)
    lines = [
        INTRODUCTION,
        f"## Hugging Face: {good} classes\n",
        *rows(hugging_face),
        "\n## torchvision, open_clip, vit-pytorch, and timm's rarer blocks\n",
        *rows(others),
        f"\n## timm: {accepted} names\n",
        *timm_rows(of_timm),
    ]
    well = all(each.outcome != "WRONG" for _, each in [*hugging_face, *others, *of_timm])
    return "\n".join(lines) + "\n", well


def main(*arguments: str) -> int:
    text, well = page()
    if "--write" in arguments:
        PAGE.write_text(text)
    else:
        print(text)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
