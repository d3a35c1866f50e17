"""The bottleneck over a training, the same in PyTorch and JAX: clusters, `Q`, the loss, the order of things."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmerge.backends.registry import get_backend
from tokenmerge.conformance.rounding import Rounded, budget_used, softmax
from tokenmerge.spec import information_bottleneck as ib
from tokenmerge.spec.shared.constants import LOG_FLOOR

pytest.importorskip("sklearn")
Array = np.ndarray[Any, Any]
CLASSES = 4
EPOCHS = 10


def tracker_of(name: str, **options: Any) -> Any:
    return get_backend(name).BottleneckTracker(CLASSES, **{"epochs": EPOCHS, **options})


def batch(name: str, seed: int = 0, samples: int = 40, spread: float = 0.05) -> list[Any]:
    """Features around one axis per class, labels, and pixels that know nothing of the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % CLASSES
    features = 3 * np.eye(CLASSES, 6)[labels] + spread * rng.standard_normal((samples, 6))
    arrays = (features.astype("f4"), labels, rng.standard_normal((samples, 12)).astype("f4"))
    return [get_backend(name).from_numpy(array) for array in arrays]


def passed(tracker: Any, batches: list[list[Any]]) -> Any:
    if tracker.centroids_in is None:
        tracker.fit_inputs(batches[0][2])
    for each in batches:
        tracker.observe(*each)
    return tracker.update()


@pytest.fixture(params=["torch", "jax"])
def name(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return request.param


def numpy_of(value: Any) -> Array:
    return np.asarray(value.detach() if hasattr(value, "detach") else value)


def test_both_hold_what_the_spec_says_of_the_same_samples(name: str) -> None:
    tracker, (features, labels, pixels) = tracker_of(name, beta=5.0, start=0.0), batch(name)
    measures = passed(tracker, [[features[:24], labels[:24], pixels[:24]], [features[24:], labels[24:], pixels[24:]]])
    f, y, x = (numpy_of(each) for each in (features, labels, pixels))
    phi_out = softmax(-squares(f, numpy_of(tracker.centroids_out)) * 5.0)
    phi_in = softmax(-squares(x, numpy_of(tracker.centroids_in)) * 5.0)
    one_hot = Rounded.exact(np.eye(CLASSES)[y], "float32")
    q = (phi_out.T @ one_hot) / Rounded.exact(one_hot.value.sum(axis=0), "float32")
    assert budget_used(numpy_of(tracker.q), q).max() <= 1
    got = numpy_of(tracker.q).astype(np.float64)
    held = Rounded.exact(got, "float32")
    bound = ((phi_in * log(phi_in)).sum(axis=1) - (phi_out * log(held)[:, y].T).sum(axis=1)).mean(axis=0)
    assert budget_used(np.asarray(measures.bound), bound).max() <= 1
    assert budget_used(numpy_of(tracker.bound(features, labels, pixels)), bound).max() <= 1
    assert measures.difference == np.float32(measures.in_out) - np.float32(measures.out_label)
    assert measures.out_label > measures.in_out  # features know the class, pixels do not


def squares(vectors: Array, centres: Array) -> Rounded:
    v = Rounded.exact(vectors, "float32")
    unit = v / (v * v).sum(axis=1, keepdims=True).sqrt()
    offset = Rounded(unit.value[:, None], unit.error[:, None], "float32") - Rounded.exact(centres[None], "float32")
    return (offset * offset).sum(axis=2)


def log(value: Rounded) -> Rounded:
    floored = np.maximum(value.value, LOG_FLOOR)
    return Rounded(floored, value.error, value.dtype).log()


def test_both_find_the_same_clusters() -> None:
    for each in ("torch", "jax"):
        pytest.importorskip(each)
    found = []
    for each in ("torch", "jax"):
        tracker = tracker_of(each)
        passed(tracker, [batch(each)])
        found.append(numpy_of(tracker.centroids_out))
    assert (found[0] == found[1]).all()


def test_the_loss_begins_after_its_share_of_the_epochs(name: str) -> None:
    tracker, data = tracker_of(name), batch(name)
    on = []
    for _ in range(EPOCHS):
        passed(tracker, [data])
        loss, bound = (float(numpy_of(make(*data))) for make in (tracker.loss, tracker.bound))
        on.append(tracker.active)
        assert loss == (np.float32(0.1) * np.float32(bound) if tracker.active else 0)
    assert on == [False] * 3 + [True] * 7


def test_the_released_order_counts_other_clusters_from_the_second_epoch_on(name: str) -> None:
    ways = {recipe: tracker_of(name, beta=20.0, recipe=recipe) for recipe in ("aligned", "released")}
    bounds: dict[str, list[float]] = {recipe: [] for recipe in ways}
    for epoch in range(4):  # the same samples, well apart: only the order in which k-means names them changes
        for recipe, tracker in ways.items():
            bounds[recipe].append(passed(tracker, [batch(name, seed=epoch)]).bound)
    assert bounds["aligned"][0] == bounds["released"][0]
    assert (numpy_of(ways["aligned"].centroids_out) == numpy_of(ways["released"].centroids_out)).all()
    # every cluster is one class: aligned, Q knows that; misaligned, it says of most clusters that they are another
    assert max(bounds["aligned"]) < 0 < max(bounds["released"][1:])


@pytest.mark.parametrize("recipe", ["aligned", "released"])
def test_everything_is_finite(name: str, recipe: str) -> None:
    tracker = tracker_of(name, beta=1e6, recipe=recipe, start=0.0)  # scores underflow
    module = get_backend(name)
    few, labels = np.zeros((2, 6), np.float32), np.array([0, 2])  # fewer samples than clusters; unseen classes
    few[1, 0] = 1e-30
    arrays = [module.from_numpy(each) for each in (few, labels, np.zeros((2, 12), np.float32))]
    for _ in range(2):
        assert np.isfinite(passed(tracker, [arrays])).all()
    unseen = [arrays[0], module.from_numpy(np.array([1, 3])), arrays[2]]
    loss = module.gradient(lambda f: tracker.loss(f, *unseen[1:]), unseen[0])
    assert np.isfinite(numpy_of(tracker.loss(*unseen))) and np.isfinite(numpy_of(loss[0])).all()


def test_a_state_goes_on_where_it_was(name: str) -> None:
    for recipe in ("aligned", "released"):
        first, second = (tracker_of(name, recipe=recipe) for _ in range(2))
        passed(first, [batch(name)])
        second.load_state_dict(first.state_dict())
        assert passed(first, [batch(name, 1)]) == passed(second, [batch(name, 1)])
        for key, value in first.state_dict().items():
            other = second.state_dict()[key]
            assert (value is None and other is None) or bool(
                value == other if key == "epoch" else (value == other).all()
            )


def test_a_state_is_read_across_backends() -> None:
    for each in ("torch", "jax"):
        pytest.importorskip(each)
    first, second = tracker_of("torch", start=0.0), tracker_of("jax", start=0.0)
    passed(first, [batch("torch")])
    second.load_state_dict(first.state_dict())
    assert second.active and (numpy_of(second.q) == numpy_of(first.q)).all()


def test_a_loss_descends_on_its_features(name: str) -> None:
    module, tracker, data = get_backend(name), tracker_of(name, start=0.0, beta=2.0), batch(name, spread=1.0)
    passed(tracker, [data])
    (gradient,) = module.gradient(lambda f: tracker.bound(f, *data[1:]), data[0])
    before, after = tracker.bound(*data), tracker.bound(data[0] - gradient, *data[1:])
    assert float(after) < float(before)


def test_wrong_use_is_one_sentence(name: str) -> None:
    tracker, (features, labels, pixels) = tracker_of(name), batch(name)
    for call, error, sentence in (
        (lambda: tracker_of(name, epochs=0), ValueError, "`epochs` must be an integer >= 1, got 0"),
        (lambda: tracker_of(name, start=2), ValueError, r"`start` must be a number in \[0, 1\], got 2"),
        (lambda: tracker_of(name, recipe="mine"), ValueError, "`recipe` must be one of"),
        (lambda: tracker.observe(features, labels, pixels), RuntimeError, "`fit_inputs` must be called before"),
        (lambda: tracker.update(), ValueError, "`update` must follow a pass of `observe`, got none"),
        (lambda: tracker.fit_inputs(pixels[:0]), ValueError, "`vectors` must hold at least one, got none"),
        (lambda: tracker.fit_inputs(pixels * np.inf), ValueError, "`vectors` must be finite"),
        (lambda: tracker.load_state_dict({"epoch": 1}), ValueError, "`state` must have an entry 'centroids_in'"),
    ):
        with pytest.raises(error, match=f"^bottleneck_tracker: {sentence}"):
            call()
    passed(tracker, [[features, labels, pixels]])
    state = tracker.state_dict()
    with pytest.raises(TypeError, match=r"`q` must be an array or None, got 'x'$"):
        tracker.load_state_dict(state | {"q": "x"})
    with pytest.raises(ValueError, match=r"`q` must have shape \(7, 4\), got \(4, 4\)|`centroids_in` must have shape"):
        tracker_of(name, clusters=7).load_state_dict(state)
    tracker.observe(features, labels, pixels)
    with pytest.raises(RuntimeError, match="`state_dict` must be asked for between passes"):
        tracker.state_dict()


# One sample's mask: a mirror step, and the gradient in closed form.


def problem(seed: int, scale: float) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    columns = rng.dirichlet(np.ones(5), 2).T
    q = rng.dirichlet(np.ones(4), 3).T
    q[rng.integers(4), rng.integers(3)] = 0  # below the floor of logarithms
    return {
        "z": scale * rng.standard_normal((5, 3)),
        "mask": columns,
        "centroids": rng.standard_normal((4, 2, 3)),
        "q": q,
    }


def sample_bound(z: Array, mask: Array, centroids: Array, q: Array, label: int) -> Rounded:
    """What one sample's mask changes of the bound, with its rounding in float64."""
    merged = Rounded.exact(mask, "float64").T @ Rounded.exact(z, "float64")
    offset = Rounded(merged.value[None], merged.error[None], "float64") - Rounded.exact(centroids, "float64")
    phi = softmax(-((offset * offset).sum(axis=(1, 2))))
    return -((phi * log(Rounded.exact(q[:, label], "float64"))).sum(axis=0))


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    label=st.integers(0, 2),
    scale=st.sampled_from([0.1, 1.0, 3.0]),
    share=st.floats(0.1, 1),
)
def test_a_small_mirror_step_never_increases_the_bound(seed: int, label: int, scale: float, share: float) -> None:
    """Mirror descent on an L-smooth function: with `eta <= 1/L` the bound falls by `KL(G || G') / eta` at least.

    The Hessian in `X = G^T z` is `-4 E[(v - Ev) (C - EC) (C - EC)^T]` with `v = log Q[:,y]`, so its norm is at most
    `4 V D^2` with the range `V` of `v` and the diameter `D` of the centroids; a column that moves by `g` moves its
    merged token by `max |z_i| ||g||_1` at most, and `||g||_1^2 / 2 <= KL` (Pinsker).
    """
    p = problem(seed, scale)
    v = np.log(np.maximum(p["q"][:, label], LOG_FLOOR))
    flat = p["centroids"].reshape(4, -1)
    diameter = max(np.linalg.norm(a - b) for a in flat for b in flat)
    lipschitz = 4 * np.ptp(v) * diameter**2 * (np.linalg.norm(p["z"], axis=1) ** 2).max()
    eta = share / lipschitz
    step = p["mask"] * np.exp(-eta * ib.ib_gradient(p["z"], p["mask"], p["centroids"], p["q"], label))
    moved = step / step.sum(axis=0)
    before = sample_bound(**p, label=label)
    after = sample_bound(**p | {"mask": moved}, label=label)
    ratio = Rounded.exact(p["mask"], "float64") / Rounded.exact(moved, "float64")
    fall = (Rounded.exact(p["mask"], "float64") * ratio.log()).sum(axis=(0, 1)) * (1 / eta)
    assert after.low <= before.high - fall.low


@pytest.mark.parametrize("seed", range(5))
def test_the_closed_form_is_the_derivative(name: str, seed: int) -> None:
    """In float32, within the closed form's own rounding, of what differentiation says in float64."""
    p, label, module = problem(seed, 1.0), seed % 3, get_backend(name)
    p = {key: value.astype(np.float32).astype(np.float64) for key, value in p.items()}
    functions = module.information_bottleneck

    def placed(dtype: str) -> dict[str, Any]:
        arrays = p | {"z": p["z"][None], "mask": p["mask"][None]}
        return {key: module.from_numpy(value, dtype) for key, value in arrays.items()}

    labels = np.array([label])
    with module.context("float64"):
        given, phi_in = placed("float64"), module.from_numpy(np.array([[0.5, 0.5]]))
        (derivative,) = module.gradient(
            lambda mask: functions.ib_bound(
                phi_in,
                functions.mask_scores(given["z"], mask, given["centroids"]),
                module.from_numpy(labels),
                given["q"],
            ),
            given["mask"],
        )
        derivative = numpy_of(derivative)[0]
    given = placed("float32")
    got = numpy_of(
        functions.ib_gradient(*(given[key] for key in ("z", "mask", "centroids", "q")), module.from_numpy(labels))
    )
    exact = {key: Rounded.exact(value, "float32") for key, value in p.items()}
    merged = exact["mask"].T @ exact["z"]
    offset = Rounded(merged.value[None], merged.error[None], "float32") - exact["centroids"]
    phi = softmax(-((offset * offset).sum(axis=(1, 2))))
    v = log(exact["q"])[:, label]
    surprise = phi * (v - (phi * v).sum(axis=0, keepdims=True))
    spread = Rounded(surprise.value[:, None, None], surprise.error[:, None, None], "float32")
    want = (exact["z"] @ (spread * exact["centroids"]).sum(axis=0).T) * -2.0
    assert np.isfinite(derivative).all() and np.abs(derivative).max() > 0
    assert budget_used(got[0], Rounded(derivative, want.error, "float32")).max() <= 1


def test_a_mesh_with_explicit_axes_changes_nothing() -> None:
    """JAX decides by types where parts lie, so a mesh of one device already refuses what is ambiguous."""
    jax = pytest.importorskip("jax")
    if not hasattr(jax, "set_mesh"):
        pytest.skip("this JAX has no jax.set_mesh")
    functions, tracker, p = get_backend("jax").information_bottleneck, tracker_of("jax", start=0.0), problem(0, 1.0)
    given = [each[:8] for each in batch("jax")]
    passed(tracker, [given])
    samples = [jax.numpy.stack([p[name]] * 8) for name in ("z", "mask")]
    centroids, q, classes = jax.numpy.asarray(p["centroids"]), jax.numpy.asarray(p["q"]), jax.numpy.arange(8) % 3

    @jax.jit
    def everything(given: Any, samples: Any, classes: Any, arrays: Any) -> Any:
        features, labels, pixels = given
        pulled = jax.value_and_grad(lambda f: tracker.loss(f, labels, pixels, arrays))(features)
        phi = functions.cluster_scores(features, arrays["centroids_out"], 1.0)
        counted = functions.estimate_q(phi, labels, CLASSES)
        return pulled, counted, functions.ib_gradient(*samples, centroids, q, classes)

    arguments = (given, samples, classes)
    alone = everything(*arguments, tracker.arrays)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        over = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        spread = everything(*jax.device_put(arguments, over), tracker.arrays)
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(spread), strict=True):
        assert (np.asarray(one) == np.asarray(other)).all()
