"""The parts of the demo: the photograph, the features, the stages, the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from tokenmerge.backends import available_backends
from tokenmerge.cli import app
from tokenmerge.conformance.rounding import UNIT
from tokenmerge.pictures import photo

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

from tokenmerge.demo import compare, features, stages, table  # noqa: E402  # they need matplotlib and Pillow

Array = np.ndarray[Any, Any]

ROUNDING = UNIT["float32"] + 100 * UNIT["float64"]  # of one number, checked in float64


@pytest.fixture(scope="module")
def small() -> Array:
    """The tokens of the portrait in 8 x 8 patches."""
    return features.tokens(photo.load_photo(None, 64), 8)


@pytest.fixture(scope="module")
def row(small: Array) -> compare.Row:
    ats = next(stage for stage in stages.all_stages(small) if stage.merger == "ats")
    return compare.compare(ats, ats.cases(), "numpy")


# The photograph


def test_the_middle_square_is_taken(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (photo.load_photo(tmp_path / "wide.png", 10) == 1).all()


def test_a_turned_photograph_is_upright(tmp_path: Path) -> None:
    lying = np.zeros((16, 16, 3), np.uint8)
    lying[:, :8] = 255  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees, clockwise
    Image.fromarray(lying).save(tmp_path / "turned.png", exif=exif)
    loaded = photo.load_photo(tmp_path / "turned.png", 16)
    assert loaded[:8].min() == 1 and loaded[8:].max() == 0


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (photo.load_photo(tmp_path / "clear.png", 8) == 1).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGB"])
def test_every_mode_becomes_colours(mode: str, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 255).convert(mode).save(tmp_path / "photo.tiff")
    loaded = photo.load_photo(tmp_path / "photo.tiff", 4)
    assert loaded.shape == (4, 4, 3) and (loaded == 1).all()


def test_half_a_photograph_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 90).save(whole)
    half = tmp_path / "half.png"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"`image` must be a picture that Pillow can read, got '.*half.png'"):
        photo.load_photo(half, 8)


# The features


def test_features_are_the_same_every_time(small: Array) -> None:
    again = features.tokens(photo.load_photo(None, 64), 8)
    assert small.dtype == np.float32 and small.shape == (1, 65, 12)
    assert (small == again).all()


def test_the_class_token_is_the_mean(small: Array) -> None:
    # the patches and the class token are each rounded once
    assert np.abs(small[0, 0] - small[0, 1:].mean(axis=0, dtype=float)).max() <= 2 * ROUNDING * np.abs(small).max()


def test_patches_that_look_alike_are_near() -> None:
    image = np.zeros((32, 32, 3))
    image[:, 16:] = (0.9, 0.2, 0.1)
    patches = features.tokens(image, 8)[0, 1:].reshape(4, 4, 12)
    same = np.linalg.norm(patches[0, 0] - patches[3, 0])
    other = np.linalg.norm(patches[0, 0] - patches[0, 3])
    assert same < other


def test_texture_tells_stripes_from_stripes() -> None:
    upright = np.tile(np.repeat([0.0, 1.0], 4), 4)[None, :, None] * np.ones((32, 32, 3))
    level = upright.swapaxes(0, 1)
    names = slice(6, 10)
    mixed = np.concatenate([upright[:16], level[16:]])
    patches = features.tokens(mixed, 16)[0, 1:]
    assert patches[0, names].argmax() == 0  # light changes from left to right
    assert patches[2, names].argmax() == 2  # and from top to bottom


def test_attention_is_a_softmax_that_looks_for_the_middle() -> None:
    image = np.zeros((64, 64, 3))
    image[24:40, 24:40] = (1.0, 0.5, 0.2)
    attn, value = features.attention(features.tokens(image, 8))
    assert attn.dtype == value.dtype == np.float32
    assert np.abs(attn.sum(axis=2, dtype=float) - 1).max() <= ROUNDING
    rows = attn[0, 0, 1:].reshape(8, 8)
    assert rows[3:5, 3:5].min() > rows[0].max()


def test_centres_are_centres() -> None:
    points = 100.0 * np.repeat(np.arange(4), 16)[:, None] + np.random.default_rng(0).integers(0, 9, (64, 3))
    found = features.centres(points, 4)
    assert (np.sort(found, axis=0) == points.reshape(4, 16, 3).mean(axis=1)).all()


def test_centres_of_equal_points() -> None:
    assert (features.centres(np.ones((9, 2)), 8) == 1).all()


@pytest.mark.parametrize(("side", "count"), [(4, 2), (7, 3), (28, 7)])
def test_windows_are_distributions_that_reach_every_patch(side: int, count: int) -> None:
    prior = features.windows(side, count, 0.0)[0]
    assert np.abs(prior.sum(axis=0, dtype=float) - 1).max() <= ROUNDING
    assert (prior.sum(axis=1) > 0).all()


# The stages


def test_every_merger_has_a_stage(small: Array) -> None:
    assert {stage.merger for stage in stages.all_stages(small)} == {"tome", "ats", "patch_merger", "ltm"}


def test_a_layer_gets_what_the_spec_made_of_the_one_before(small: Array) -> None:
    stage = stages.all_stages(small)[1]
    cases = stage.cases()
    assert len(cases) == stage.layers == 8
    widths = [case.inputs["x"].shape[1] for case in cases]
    assert widths == sorted(widths, reverse=True) and widths[0] == 65 and widths[-1] < 20
    for case in cases:
        assert case.inputs["x"].dtype == case.inputs["size"].dtype == np.float32
        assert case.inputs["size"].sum() == 65


@pytest.mark.parametrize("side", range(4, 13))
def test_stages_fit_any_photograph(side: int) -> None:
    x = np.random.default_rng(side).standard_normal((1, side * side + 1, 12)).astype(np.float32)
    for stage in stages.all_stages(x):
        made = compare.compare(stage, stage.cases(), "numpy")
        assert made.agrees
        assert made.matrix.shape[1] == side * side + 1
        if stage.merger == "ltm":
            assert made.tokens_out == 1 + max(2, side // 4) ** 2


# The comparison and the table


def test_a_row_says_what_happened(row: compare.Row) -> None:
    assert row.agrees and row.decisions_equal
    assert (row.tokens_in, row.backend) == (65, "numpy")
    assert 1 < row.tokens_out <= 9 and row.tokens_out == row.matrix.any(axis=1).sum()
    assert row.milliseconds > 0


@pytest.mark.parametrize(
    ("change", "agrees", "word"),
    [
        ({}, True, "as the spec"),
        ({"decisions_equal": None}, True, "none"),
        ({"decisions_equal": False}, True, "near-tie"),
        ({"decisions_equal": False, "certified": False, "budget_used": np.inf}, False, "wrong"),
        ({"budget_used": 1.5}, False, "1.50"),
        ({"budget_used": np.nan}, False, "nan"),
    ],
)
def test_the_table_says_what_agrees(row: compare.Row, change: dict[str, Any], agrees: bool, word: str) -> None:
    changed = replace(row, **change)
    assert changed.agrees == agrees
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table.table([changed]))
    (line,) = (line for line in capture.get().splitlines() if "numpy" in line)
    assert word in line


@pytest.mark.slow
def test_every_backend_agrees(tmp_path: Path) -> None:
    names = [name for name, info in available_backends().items() if info.available and name != "spec"]
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo.png"), "--size", "96"])
    assert result.exit_code == 0, result.output
    for name in names:
        assert sum(name in line.split() for line in result.stdout.splitlines()) == 5
