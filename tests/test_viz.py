"""The picture of a plan says what its matrix says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tokenmerge.pictures import viz
from tokenmerge.spec.plan import DensePlan, PartitionPlan, SelectionPlan, compose

figure = pytest.importorskip("matplotlib.figure")

Array = np.ndarray[Any, Any]
GRID = (2, 3)


def noise(*shape: int) -> Array:
    """Eighths, so that means over 2, 4 and 16 of them are exact."""
    return np.random.default_rng(0).integers(0, 9, shape) / 8


def patch(picture: Array, index: int, grid: tuple[int, int] = GRID) -> Array:
    high, wide = picture.shape[0] // grid[0], picture.shape[1] // grid[1]
    row, column = divmod(index, grid[1])
    return picture[row * high : (row + 1) * high, column * wide : (column + 1) * wide]


# What is drawn


def test_a_group_has_the_mean_colour_of_its_patches() -> None:
    image = noise(8, 12, 3)
    picture = viz.group_image(PartitionPlan(np.array([0, 0, 1, 0, 1, 0])).matrix(), image, GRID)
    for members in ([0, 1, 3, 5], [2, 4]):
        mean = np.mean([patch(image, index).mean(axis=(0, 1)) for index in members], axis=0)
        assert all((patch(picture, index) == mean).all() for index in members)


def test_the_mean_is_weighted_as_the_matrix_says() -> None:
    image = np.zeros((1, 3, 3))
    image[0, 1] = 1.0
    matrix = PartitionPlan(np.array([0, 0, 1])).matrix(np.array([1.0, 3.0, 1.0]))
    assert viz.group_image(matrix, image, (1, 3))[0, 0].tolist() == [0.75] * 3


def test_a_patch_alone_in_its_group_shows_the_image() -> None:
    image = noise(8, 12, 3)
    picture = viz.group_image(PartitionPlan(np.array([0, 1, 1, 1, 1, 1])).matrix(), image, GRID)
    assert (patch(picture, 0) == patch(image, 0)).all()
    assert (patch(picture, 1) != patch(image, 1)).any()


def test_a_dropped_patch_is_faded_and_a_kept_one_is_not() -> None:
    image = np.zeros((4, 6, 3))
    matrix = SelectionPlan(np.array([4, 0]), np.array([True, False]), 6).matrix()
    picture = viz.group_image(matrix, image, GRID)
    assert (patch(picture, 4) == 0).all()
    for index in (0, 1, 2, 3, 5):
        assert (patch(picture, index) > 0.5).all()


def test_protected_tokens_have_no_patch() -> None:
    image = noise(2, 3, 3)
    assignment = np.array([0, 1, 2, 2, 3, 4, 5])  # the class token in front, then six patches
    assert viz.owners(PartitionPlan(assignment).matrix(), protected=1).tolist() == assignment[1:].tolist()
    picture = viz.group_image(PartitionPlan(assignment).matrix(), image, GRID, protected=1)
    assert (picture[0, 1] == image[0, 1:].mean(axis=0)).all()
    assert (picture[0, 0] == image[0, 0]).all()


def test_a_class_token_in_a_group_does_not_darken_it() -> None:
    image = np.full((1, 2, 3), 0.5)
    matrix = PartitionPlan(np.array([0, 0, 0])).matrix()
    assert (viz.group_image(matrix, image, (1, 2), protected=1) == image).all()


def test_the_matrix_decides_what_is_hard() -> None:
    partition, selection = PartitionPlan(np.array([0, 1, 1, 0])), SelectionPlan(np.array([1]), None, 2)
    dense = DensePlan(np.full((2, 4), 0.25))
    assert viz.is_hard(compose(partition, selection).matrix())
    assert not viz.is_hard(dense.matrix())
    assert not viz.is_hard(compose(dense, selection).matrix() + dense.matrix())


@pytest.mark.parametrize("empty", [np.zeros((0, 6)), np.zeros((3, 6))])
def test_a_plan_that_keeps_nothing_fades_everything(empty: Array) -> None:
    image = np.zeros((4, 6, 3))
    assert (viz.group_image(empty, image, GRID) > 0.5).all()


# Heat maps


def test_heat_follows_the_weights() -> None:
    weights = np.array([0.0, 0.1, 0.2, 0.3, 0.15, 0.25])
    picture = viz.heat_image(weights, np.ones((4, 6, 3)), GRID)
    brightness = [patch(picture, index).mean() for index in range(6)]
    assert np.argsort(brightness).tolist() == np.argsort(weights).tolist()


def test_heat_of_nothing_is_finite() -> None:
    assert np.isfinite(viz.heat_image(np.zeros(6), np.ones((4, 6, 3)), GRID)).all()


def test_the_most_concentrated_rows_are_chosen() -> None:
    sharp, sharper, flat = np.zeros(6), np.zeros(6), np.full(6, 1 / 6)
    sharp[:2] = 0.5
    sharper[5] = 1
    assert viz.concentrated_rows(np.stack([flat, sharp, sharper]), 1) == [2]
    assert viz.concentrated_rows(np.stack([flat, sharp, sharper]), 2) == [1, 2]


def test_no_two_alike_while_there_are_others() -> None:
    twin = np.array([0.9, 0.1, 0.0, 0.0])
    other = np.array([0.0, 0.0, 0.5, 0.5])
    assert viz.concentrated_rows(np.stack([twin, twin, other]), 2) == [0, 2]
    assert viz.concentrated_rows(np.stack([twin, twin, other]), 3) == [0, 1, 2]


def test_rows_of_protected_tokens_and_padding_are_left_out() -> None:
    class_token, padding, mixture = np.array([1.0, 0, 0]), np.zeros(3), np.array([0.2, 0.4, 0.4])
    assert viz.concentrated_rows(np.stack([class_token, padding, mixture]), 3, protected=1) == [2]


# Groups, from a slot per patch


def groups(owner: list[int], image: Array) -> Any:
    axes = figure.Figure().subplots()
    viz.draw_groups(axes, np.array(owner), image, GRID)
    return axes


@pytest.mark.parametrize("owner", [[0, 0, 1, 0, 1, 0], [0, 1, 2, 3, 4, 5], [2, 2, 2, 2, 2, 2], [3, -1, 3, -1, 1, 0]])
def test_groups_look_as_their_matrix_does(owner: list[int]) -> None:
    image = noise(8, 12, 3)
    axes = groups(owner, image)
    matrix = PartitionPlan(np.array(owner)).matrix()
    (shown,), (lines,) = axes.images, axes.collections
    assert (np.round(shown.get_array(), 9) == np.round(viz.group_image(matrix, image, GRID), 9)).all()
    drawn_from_matrix = figure.Figure().subplots()
    viz.draw_plan(drawn_from_matrix, matrix, image, GRID)
    expected = drawn_from_matrix.collections[0].get_segments()
    assert [s.tolist() for s in lines.get_segments()] == [s.tolist() for s in expected]


def test_nothing_but_dropped_patches_is_faded() -> None:
    axes = groups([-1] * 6, np.zeros((4, 6, 3)))
    assert (axes.images[0].get_array() > 0.5).all() and not axes.collections[0].get_segments()


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"draw_groups: `owner` must be \(6,\), one group per patch, got \(5,\)"):
        groups([0] * 5, np.zeros((4, 6, 3)))
    with pytest.raises(TypeError, match="draw_groups: `image` must be floating point"):
        groups([0] * 6, np.zeros((4, 6, 3), np.uint8))


# On axes


def drawn(matrix: Array, **options: Any) -> Any:
    axes = figure.Figure().subplots()
    viz.draw_plan(axes, matrix, noise(4, 6, 3), GRID, **options)
    return axes


def test_outlines_run_where_groups_meet_and_nowhere_else() -> None:
    axes = drawn(PartitionPlan(np.array([0, 0, 1, 0, 0, 1])).matrix())
    (lines,) = axes.collections
    assert sorted(np.array(segment).tolist() for segment in lines.get_segments()) == [
        [[4.0, 0.0], [4.0, 2.0]],
        [[4.0, 2.0], [4.0, 4.0]],
    ]


def test_dropped_patches_have_no_outline_between_them() -> None:
    axes = drawn(SelectionPlan(np.array([0]), None, 6).matrix())
    assert len(axes.collections[0].get_segments()) == 2  # to the right of the first patch and below it


def test_a_dense_plan_is_drawn_as_maps_of_its_rows() -> None:
    matrix = np.eye(6) * 0.9 + 0.1 / 6
    axes = drawn(matrix, maps=4)
    assert len(axes.child_axes) == 4 and not axes.images
    rows = viz.concentrated_rows(matrix, 4)
    for cell, row in zip(axes.child_axes, rows, strict=True):
        (shown,) = cell.images
        assert (shown.get_array() == viz.heat_image(matrix[row], noise(4, 6, 3), GRID)).all()


@pytest.mark.parametrize("maps", [1, 2, 3, 5])
def test_maps_stay_inside_the_axes(maps: int) -> None:
    axes = drawn(np.eye(6) + 0.01, maps=maps)
    axes.figure.draw_without_rendering()
    outside = axes.get_window_extent().padded(1)
    for cell in axes.child_axes:
        box = cell.get_window_extent()
        assert outside.contains(box.x0, box.y0) and outside.contains(box.x1, box.y1)


@pytest.mark.parametrize(
    ("matrix", "image", "error", "message"),
    [
        (np.eye(6), np.zeros((4, 6, 3), np.uint8), TypeError, "`image` must be floating point in .0, 1., got uint8"),
        (np.eye(6), np.zeros((4, 6)), ValueError, r"`image` must be \(H, W, 3\)"),
        (np.eye(6), np.zeros((5, 6, 3)), ValueError, r"multiples of the grid 2 x 3, got \(5, 6, 3\)"),
        (np.eye(7), np.zeros((4, 6, 3)), ValueError, r"0 protected \+ 2 x 3 patches = 6, got \(7, 7\)"),
        (np.eye(6)[None], np.zeros((4, 6, 3)), ValueError, r"`matrix` must be \(P, N\)"),
    ],
)
def test_what_cannot_be_drawn_is_refused(matrix: Array, image: Array, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        viz.draw_plan(figure.Figure().subplots(), matrix, image, GRID)


def test_no_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="`maps` must be an integer >= 1, got 0"):
        drawn(np.eye(6), maps=0)
