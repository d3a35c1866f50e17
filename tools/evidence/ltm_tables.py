"""What the runs say: means with confidence intervals, paired tests, and the part of docs/ltm.md that shows them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from ltm_arms import ARMS, config, rate
from ltm_sets import EPOCHS, TITLES
from scipy import stats

from tokenmerge.spec.shared.flops import flops

BLOCK = re.compile(r"(<!-- evidence -->\n).*?(<!-- /evidence -->)", re.DOTALL)
LEVEL = 0.95
NONE = "No effect that five seeds show on"
Runs = list[dict[str, Any]]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its confidence interval by Student's t.

    >>> mean, half = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    >>> round(mean, 3), round(half, 3)
    (3.0, 1.963)
    """
    count = len(values)
    spread = float(np.std(values, ddof=1)) if count > 1 else math.nan
    return float(np.mean(values)), float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * spread / math.sqrt(count)


def flipped(differences: Sequence[float]) -> float:
    """How likely a mean this low is if every difference were as likely to have the other sign, counted exactly.

    >>> flipped([-1.0, -2.0, -1.0, -3.0, -1.0]), flipped([1.0, -1.0])
    (0.03125, 0.75)
    """
    signs = np.array(list(product((1, -1), repeat=len(differences))))
    sums = signs @ np.asarray(differences)
    return float((sums <= sums[0]).mean())


def accuracies(runs: Runs, data: str, arm: str) -> list[float]:
    """Percent right, by seed."""
    return [100 * run["right"] / run["images"] for run in _of(runs, data, arm)]


def bounds(runs: Runs, data: str, arm: str) -> Any:
    """The bound before each epoch and after the last: `(seeds, epochs + 1)`."""
    return np.array([[measure[2] for measure in run["measures"]] for run in _of(runs, data, arm)])


def share(arm: str) -> float:
    """Multiply-adds, of the plain network's."""
    return flops(config(arm)).total / flops(config("plain")).total


def filled(text: str, runs: Runs) -> str:
    """A page with its part as the runs have it."""
    made = "\n".join([*accuracy_table(runs), "", *bound_table(runs), "", *said(runs), ""])
    return BLOCK.sub(lambda found: found[1] + made + found[2], text)


def accuracy_table(runs: Runs) -> Iterator[str]:
    images = {data: _of(runs, data, "plain")[0]["images"] for data in TITLES}
    heads = [f"{title}, % of {images[data]:,}" for data, title in TITLES.items()]
    yield f"| network | rate | MMACs | of the plain | {' | '.join(heads)} |"
    yield "|---|---|---|---|---|---|"
    for name, arm in ARMS.items():
        cells = [_plus_minus(interval(accuracies(runs, data, name))) for data in TITLES]
        cost = f"{flops(config(name)).total / 1e6:.3f} | {100 * share(name):.1f} %"
        yield f"| {arm.title} | {rate(name) or '-'} | {cost} | {' | '.join(cells)} |"


def bound_table(runs: Runs) -> Iterator[str]:
    yield "| after the last epoch, nats | loss | I(in;out) | I(out;label) | bound |"
    yield "|---|---|---|---|---|"
    for data, title in TITLES.items():
        for arm, loss in (("ltm", "without"), ("ltm_bound", "with")):
            last = np.array([run["measures"][-1] for run in _of(runs, data, arm)])
            cells = [_plus_minus(interval(column), 3) for column in last.T]
            yield f"| {title} | {loss} | {' | '.join(cells)} |"


def said(runs: Runs) -> Iterator[str]:
    """The answers, one item for each set and question."""
    for data, title in TITLES.items():
        with_it, without = (bounds(runs, data, arm)[:, -1] for arm in ("ltm_bound", "ltm"))
        differences = with_it - without
        mean, half = interval(differences)
        word = "lower" if mean + half < 0 else "higher" if mean - half > 0 else "not different beyond chance"
        test = stats.ttest_rel(with_it, without, alternative="less")
        yield (
            f"- **{title}, the bound.** Trained with the loss it ends {word}: by {_number(mean, 3)} ± {half:.3f} nats, "
            f"lower in {int((differences < 0).sum())} of {len(differences)} seeds; paired one-sided t test p = "
            f"{_p(float(test.pvalue))}, all {2 ** len(differences)} flips of signs p = {_p(flipped(differences))}."
        )
        mean, half = interval(np.subtract(*(accuracies(runs, data, arm) for arm in ("ltm_bound", "ltm"))))
        effect = "It raises" if mean - half > 0 else "It lowers" if mean + half < 0 else NONE
        yield f"- **{title}, the loss and accuracy.** {effect} accuracy: {_number(mean, 2)} ± {half:.2f} points."
        mean, half = interval(np.subtract(*(accuracies(runs, data, arm) for arm in ("ltm", "fixed"))))
        effect = "Learning them raises" if mean - half > 0 else "Learning them lowers" if mean + half < 0 else NONE
        yield f"- **{title}, the masks.** {effect} accuracy: {_number(mean, 2)} ± {half:.2f} points."
        for arm, words in (("ltm_bound", "with the loss"), ("ltm", "without it")):
            ours, plain = (np.array(accuracies(runs, data, each)) for each in (arm, "plain"))
            mean, half = interval(ours - plain)
            if mean >= -1:
                place = "The mean is no more than one point below the plain ViT"
                place += ", nor is any of the interval" if mean - half >= -1 else ", some of the interval is"
            else:
                place = f"The mean is {-mean:.2f} points below the plain ViT, so not within one"
            yield (
                f"- **{title}, LTM {words}.** {place}: {_number(mean, 2)} ± {half:.2f} points for "
                f"{100 * share(arm):.1f} % of its multiply-adds."
            )


def _of(runs: Runs, data: str, arm: str) -> Runs:
    """In the order of their seeds."""
    found = [run for run in runs if (run["data"], run["arm"]) == (data, arm)]
    return sorted(found, key=lambda run: run["seed"])


def _plus_minus(found: tuple[float, float], digits: int = 2) -> str:
    return f"{_number(found[0], digits)} ± {found[1]:.{digits}f}"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def _p(value: float) -> str:
    return f"{value:.2g}"


def settings(data: str) -> dict[str, Any]:
    """What the runs of a set depend on beside the code, kept with them."""
    return {"epochs": EPOCHS[data], "arms": {name: repr(config(name)) for name in ARMS}}
