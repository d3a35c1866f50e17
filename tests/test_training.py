"""`tokenmerge train --data`: killed and gone on with, in one process and in two, and what it says of bad input."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from tokenmerge.cli import app
from tokenmerge.conformance.rounding import UNIT

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("timm")
image = pytest.importorskip("PIL.Image")


def make_images(folder: Path, count: int = 12) -> Path:
    """Two classes: dark above and dark below."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("above", "below")):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 100, (10, 10, 3), np.uint8)
            pixels[5 * label : 5 * label + 5] += 120
            image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trainings in processes of their own; the folder that they leave."""
    folder = tmp_path_factory.mktemp("runs")
    make_images(folder / "images")
    program = Path(__file__).with_name("training_processes.py")
    done = subprocess.run([sys.executable, str(program), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    (folder / "stderr").write_text(done.stderr)
    return folder


def table(folder: Path) -> list[dict[str, Any]]:
    with (folder / "epochs.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["step", "write", "full"])
def test_what_was_killed_ends_with_the_same_weights(runs: Path, name: str) -> None:
    for file in ("model.safetensors", "model-ema.safetensors", "epochs.csv"):
        assert (runs / name / file).read_bytes() == (runs / "whole" / file).read_bytes()
    assert not list((runs / name).glob(".*.checkpoint.pt"))  # what a killed process had begun to write


def test_a_full_disk_is_one_sentence(runs: Path) -> None:
    said = [line for line in (runs / "stderr").read_text().splitlines() if line.startswith("train: ")]
    assert len(said) == 1 and said[0].startswith("train: `out` must be a file that can be written, got ")


@pytest.mark.parametrize("name", ["two", "parts"])
def test_two_processes_train_as_one_with_the_whole_batch(runs: Path, name: str) -> None:
    """In float64, and alike to the resolution of float32: losses, centroids, `Q`, weights after four steps."""
    one, other = ({**torch.load(runs / each / "checkpoint.pt", weights_only=True)} for each in ("one", name))
    assert one["step"] == other["step"] == 4 and one["position"] == 0
    for key in ("centroids_in", "centroids_out"):
        assert (one["tracker"][key] == other["tracker"][key]).all()
    assert_alike(one["tracker"]["q"].numpy(), other["tracker"]["q"].numpy())
    for first, second in zip(one["rows"], other["rows"], strict=True):
        assert_alike(np.array(list(first.values())), np.array(list(second.values())))
        assert first["accuracy"] == second["accuracy"]
    assert one["model"].keys() == other["model"].keys()
    for key, value in one["model"].items():
        assert_alike(value.numpy(), other["model"][key].numpy())
    initial = load_file(runs / "one" / "model.safetensors")
    assert all((initial[key] == value.numpy()).all() for key, value in one["model"].items())


def assert_alike(one: Any, other: Any) -> None:
    assert np.abs(one - other).max() <= UNIT["float32"] * np.abs(one).max()


def test_the_bound_is_part_of_the_loss_and_the_table(runs: Path) -> None:
    rows = table(runs / "one")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"in_out", "out_label", "difference", "bound", "train_loss", "val_loss", "accuracy", "lr"} <= set(rows[0])


def test_the_last_merger_has_a_gradient_which_is_zero() -> None:
    """Its tokens are not read, the class token is: DDP waits for no gradient that never comes."""
    from tokenmerge import LTMMerging, get_vit
    from tokenmerge.digits.network import digits_config

    model = get_vit(digits_config(LTMMerging(compression_ratio=0.5)), backend="torch")
    model(torch.randn(2, 1, 32, 32)).logits.sum().backward()
    gradients = [block.merger.weight.grad for block in model.blocks]
    assert all(each is not None for each in gradients)
    assert [bool(each.any()) for each in gradients] == [True] * 5 + [False]


COMMON = ["--input-size", "8", "--epochs", "1", "--batch-size", "4"]


def train(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["train", *arguments])


def test_published_flags_train_a_patched_network_of_timm(tmp_path: Path) -> None:
    make_images(tmp_path / "images", 4)
    published = "--opt adamw --sched cosine --model-ema --aa rand-m10-inc1 --reprob 0.25 --amp --smoothing 0.1"
    model = ["--model", "test_vit", "--merger", "ltm", "--compression-ratio", "0.8"]
    options = [*published.split(), *model, "--recipe", "released", "--ib-start", "0", "--batch-size", "4"]
    rest = ["--input-size", "32", "--epochs", "2", "--merger-option", "prior_smoothing=0.2"]
    done = train("--data", str(tmp_path / "images"), "--out", str(tmp_path / "out"), *options, *rest)
    assert done.exit_code == 0, done.output
    assert len(table(tmp_path / "out")) == 2 and float(table(tmp_path / "out")[1]["bound"]) < np.inf
    assert (tmp_path / "out" / "epochs.png").read_bytes()[:4] == b"\x89PNG"
    assert any("merger.weight" in key for key in load_file(tmp_path / "out" / "model.safetensors"))


def broken(folder: Path) -> None:
    path = folder / "above" / "3.png"
    path.write_bytes(path.read_bytes()[:60])


def empty(folder: Path) -> None:
    (folder / "middle").mkdir()


def single(folder: Path) -> None:
    for path in list((folder / "below").iterdir())[1:]:
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "options", "sentence"),
    [
        (broken, [], "train: `data` must hold images that can be read, got '"),
        (empty, [], "train: `data` must have images in every class folder, got none in "),
        (single, [], "train: `data` must have two images in every class, one to test on, got 1 in 'below'"),
        (None, ["--model", "vit_tinny"], "train: `model` must be a name of timm or tokenmerge:NAME, got 'vit_tinny'"),
        (None, ["--model", "tokenmerge:vit"], "train: `model` must be a known name, got 'vit'"),
        (None, ["--merger", "ltm"], "train: `compression-ratio` must be given with the merger ltm"),
        (None, ["--merger-option", "x=1"], "train: `merger-option` must be left out without a merger"),
        (None, ["--recipe", "mine"], "train: `recipe` must be one of"),
        (None, ["--opt", "adamm"], "train: `opt` must be an optimizer of timm, got 'adamm'"),
        (None, ["--sched", "cos"], "train: `sched` must be a schedule of timm such as cosine, got 'cos'"),
        (None, ["--lr", "nan"], r"train: `lr` must be a number in [0, inf), got nan"),
        (None, ["--lr", "1e30", "--clip-grad", "0", "--epochs", "4"], "train: `lr` must be one that training bears"),
        (None, ["--batch-size", "3", "--mixup", "1"], "train: `batch-size` must be even in every process"),
        (None, ["--batch-size", "30"], "train: `batch-size` must be at most the "),
        (None, ["--device", "tpu"], "train: `device` must be one that PyTorch finds, got 'tpu'"),
        (None, ["--shard"], "train: `shard` must be given to several processes (torchrun), got one"),
        (None, ["--warmup-epochs", "9"], "train: `warmup-epochs` must be below the 1 epochs, got 9"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, spoil: Any, options: list[str], sentence: str) -> None:
    make_images(tmp_path / "images", 4)
    if spoil:
        spoil(tmp_path / "images")
    done = train("--data", str(tmp_path / "images"), "--out", str(tmp_path / "out"), *COMMON, *options)
    assert done.exit_code == 2 and sentence in done.stderr.splitlines()[-1], done.output
    assert not list(tmp_path.glob("out/model*"))


def test_half_an_image_is_found_while_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a worker, of a folder too large to be looked at beforehand; the checkpoint before it stays."""
    from tokenmerge.training import images

    make_images(tmp_path / "images", 4)
    broken(tmp_path / "images")
    monkeypatch.setattr(images, "OPENED_BEFOREHAND", 0)
    done = train("--data", str(tmp_path / "images"), "--out", str(tmp_path / "out"), *COMMON, "--workers", "1")
    assert done.exit_code == 2 and done.stderr.splitlines()[-1].startswith("train: `data` must hold images"), (
        done.stderr
    )


def test_no_checkpoint_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenmerge.training.command.write_plot", lambda *_: None)  # which takes a second
    make_images(tmp_path / "images", 4)
    options = ["--data", str(tmp_path / "images"), "--out", str(tmp_path / "out"), *COMMON]
    assert train(*options).exit_code == 0
    path = tmp_path / "out" / "checkpoint.pt"
    before = path.read_bytes()
    for more, sentence in (
        ([], f"train: `out` must be a folder without a checkpoint, got '{tmp_path / 'out'}' (--resume goes on)"),
        (["--resume", "--merger", "tome", "--r", "1"], "with `knob` "),
        (["--resume", "--lr", "0.5"], "with `lr` 0.001 and not 0.5"),
    ):
        done = train(*options, *more)
        assert done.exit_code == 2 and sentence in done.stderr.splitlines()[-1], done.output
    assert path.read_bytes() == before
    written = (tmp_path / "out" / "epochs.csv").read_bytes()
    (tmp_path / "out" / "epochs.csv").unlink()
    assert train(*options, "--resume").exit_code == 0  # nothing is left to do but the table
    assert (tmp_path / "out" / "epochs.csv").read_bytes() == written
    path.write_bytes(before[: len(before) // 2])
    done = train(*options, "--resume")
    assert done.exit_code == 2 and "which cannot be read" in done.stderr.splitlines()[-1]
    (tmp_path / "file").write_text("")
    done = train("--data", str(tmp_path / "images"), "--out", str(tmp_path / "file"))
    assert done.exit_code == 2 and done.stderr.startswith("train: `out` must be a folder that can be made, got ")


def test_the_old_door_takes_its_own_options_only() -> None:
    done = train("digits", "--lr", "1")
    assert done.exit_code == 2 and done.stderr.startswith("train: `lr` must be left out of `train digits`")
    assert train().stderr.startswith("train: `data` must be given, or the dataset 'digits', got nothing")
    assert train("digits", "--data", "digits").stderr.startswith("train: `dataset` must be left out with --data")
    assert "WORLD_SIZE" not in os.environ
