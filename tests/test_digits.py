"""The trained network: it is right on at least 97 % of the test images, and every backend sees the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from tokenmerge import ToMeMerging, get_vit
from tokenmerge.cli import app

pytest.importorskip("sklearn")
pytest.importorskip("torch")

from tokenmerge.digits.data import load_digits
from tokenmerge.digits.evaluate import cases, evaluate, near_ties
from tokenmerge.digits.network import CHECKPOINT, digits_config
from tokenmerge.digits.train import train


def test_digits_are_the_same_every_time_and_in_both_parts() -> None:
    (training, test), (again, _) = load_digits(), load_digits()
    assert training.images.shape == (1437, 32, 32, 1) and test.images.shape == (360, 32, 32, 1)
    assert (training.images == again.images).all()
    assert set(test.labels) == set(range(10))


def test_checkpoint_is_small_and_right() -> None:
    assert CHECKPOINT.stat().st_size < 1_000_000
    (row,) = evaluate(load_digits()[1], load_file(CHECKPOINT), "none", "", None, ("torch",))
    assert row.accuracy >= 0.97


def test_every_merger_gives_the_same_predictions_in_every_backend(tmp_path: Path) -> None:
    test = load_digits()[1]
    few = test._replace(images=test.images[:60], labels=test.labels[:60])
    seen = {}
    for merger, rate, merging in cases():
        if merger not in seen:  # the gentlest rate of each; `tokenmerge evaluate digits` runs them all
            seen[merger] = rate
            rows = evaluate(few, load_file(CHECKPOINT), merger, rate, merging, ("numpy", "torch", "jax"))
            assert [row.differ - row.near_ties for row in rows] == [0, 0, 0]
            assert len({row.gflops for row in rows}) == 1
    assert set(seen) == {"none", "tome", "ats", "patch_merger", "ltm"}


def test_a_prediction_that_no_rounding_explains_is_no_near_tie() -> None:
    test, params = load_digits()[1], load_file(CHECKPOINT)
    config = digits_config(ToMeMerging(r=4))
    model = get_vit(config)
    model.load_params(params)
    guess = model(test.images[:8]).logits.argmax(axis=1)
    assert near_ties(config, params, test.images[:8], guess, guess) == 8  # the same prediction: nothing to explain
    assert near_ties(config, params, test.images[:8], guess, (guess + 1) % 10) == 0


def test_training_lowers_the_loss_and_is_repeatable() -> None:
    training, _ = load_digits()
    few = training._replace(images=training.images[:128], labels=training.labels[:128])
    runs = []
    for _ in range(2):
        losses: list[float] = []
        params = train(few, epochs=3, progress=lambda _, loss, losses=losses: losses.append(loss))  # type: ignore[misc]
        runs.append((losses, params))
    assert runs[0][0][-1] < runs[0][0][0]
    assert runs[0][0] == runs[1][0]
    assert all((runs[0][1][name] == value).all() for name, value in runs[1][1].items())


def test_commands(tmp_path: Path) -> None:
    weights, drawing, report = tmp_path / "w.safetensors", tmp_path / "plot.png", tmp_path / "rows.json"
    trained = CliRunner().invoke(app, ["train", "digits", "--epochs", "1", "--out", str(weights)])
    assert trained.exit_code == 0, trained.output
    options = ["--weights", str(weights), "--backend", "torch", "--merger", "ats", "--json", str(report)]
    evaluated = CliRunner().invoke(app, ["evaluate", "digits", *options, "--plot", str(drawing)])
    assert evaluated.exit_code == 0, evaluated.output
    rows = json.loads(report.read_text())
    assert [row["merger"] for row in rows] == ["none"] + ["ats"] * 5
    assert all(np.diff([row["gflops"] for row in rows]) < 0)
    assert drawing.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "cats"], "train: `dataset` must be 'digits', got 'cats'"),
        (["train", "digits", "--epochs", "0"], "train: `epochs` must be an integer >= 1, got 0"),
        (["train", "digits", "--out", "/no/such/folder/w"], "digits: `out` must be a file in a folder that exists"),
        (["evaluate", "digits", "--merger", "tomme"], "evaluate: `merger` must be one of"),
        (["evaluate", "digits", "--backend", "tourch"], "evaluate: `backend` must be one of"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(sentence)
