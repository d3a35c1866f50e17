"""What docs/ltm.md says of trained networks is what the runs say that `tools/ltm_evidence.py` made."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("sklearn")

import ltm_tables
from ltm_arms import ARMS, config
from ltm_sets import EPOCHS, TITLES

from tokenmerge.digits.data import load_digits

SPEC = importlib.util.spec_from_file_location("ltm_evidence", Path(__file__).parents[1] / "tools" / "ltm_evidence.py")
assert SPEC and SPEC.loader
evidence = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(evidence)


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    return evidence.runs()


def test_the_page_is_what_the_runs_say() -> None:
    assert not evidence.stale()


@pytest.mark.parametrize("data", TITLES)
def test_every_run_is_there_once_and_has_its_epochs(data: str) -> None:
    kept = evidence.read(data)  # which refuses those of other settings
    assert evidence.missing(kept) == []
    keys = [(run["arm"], run["seed"]) for run in kept["runs"]]
    assert len(keys) == len(set(keys)) == len(ARMS) * len(evidence.SEEDS)
    for run in kept["runs"]:
        assert len(run.get("measures", ())) == (EPOCHS[data] + 1 if run["arm"].startswith("ltm") else 0)


def test_networks_that_merge_cost_three_quarters() -> None:
    assert ltm_tables.share("plain") == 1
    assert all(0.74 < ltm_tables.share(arm) < 0.78 for arm in ARMS if arm != "plain")
    assert config("ltm") == config("ltm_bound")


@pytest.mark.parametrize("arm", ARMS)
def test_a_changed_run_changes_the_page(found: list[dict[str, Any]], arm: str) -> None:
    runs = copy.deepcopy(found)
    next(run for run in runs if run["arm"] == arm)["right"] -= 9
    text = evidence.PAGE.read_text()
    assert ltm_tables.filled(text, runs) != text


def test_the_answers_follow_the_numbers() -> None:
    def runs(last: float, right: int) -> list[dict[str, Any]]:
        made = []
        for data in TITLES:
            for seed in range(5):
                made += [{"data": data, "arm": arm, "seed": seed, "right": 90, "images": 100} for arm in ARMS]
                for entry in made[-len(ARMS) :]:
                    if entry["arm"].startswith("ltm"):
                        entry["right"] = right
                        entry["measures"] = [[1.0, 1.0, last + seed / 10 if entry["arm"] == "ltm_bound" else 0.0]]
        return made

    lower, higher = (" ".join(ltm_tables.said(runs(last, 89))) for last in (-1.0, 1.0))
    assert "it ends lower: by −0.800 ± 0.196 nats, lower in 5 of 5" in lower and "p = 0.031" in lower
    assert "it ends higher: by 1.200" in higher and "lower in 0 of 5" in higher
    assert "no more than one point below the plain ViT, nor is any of the interval: −1.00 ± 0.00 points" in lower
    assert "2.00 points below the plain ViT, so not within one" in " ".join(ltm_tables.said(runs(0.0, 88)))


def test_a_tracker_only_watches_and_its_loss_acts() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("timm")
    import ltm_training

    data = load_digits(20)[0]
    few = data._replace(images=data.images[:64], labels=data.labels[:64])

    def weights(**options: bool) -> tuple[dict[str, Any], list[Any]]:
        trained = ltm_training.train(few, config("ltm"), epochs=2, seed=1, **options)
        return trained.model.params(), trained.measures

    (alone, none), (watched, measures) = weights(tracked=False, bound=False), weights(tracked=True, bound=False)
    assert none == [] and np.isfinite(measures).all() and np.shape(measures) == (3, 3)
    assert all((watched[name] == value).all() for name, value in alone.items())
    pulled, again = weights(tracked=True, bound=True)
    assert again[:2] == measures[:2] and again[2] != measures[2]  # of two epochs the first goes without
    assert any((pulled[name] != value).any() for name, value in alone.items())
    left, _ = weights(tracked=False, bound=False, fixed=True)
    learned = {name for name in left if ".merger." in name}
    assert learned and not any(left[name].any() for name in learned) and any(alone[name].any() for name in learned)
