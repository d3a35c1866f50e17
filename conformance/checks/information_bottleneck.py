"""The information-bottleneck functions, for backends that have them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tokenmerge.conformance.case import context, to_numpy
from tokenmerge.conformance.checks.check import check
from tokenmerge.conformance.checks.gradients import central_differences
from tokenmerge.conformance.draws import seeds
from tokenmerge.conformance.rounding import Rounded, softmax
from tokenmerge.conformance.subject import Mismatch, Subject
from tokenmerge.conformance.verdict import Finding, within
from tokenmerge.spec import information_bottleneck as spec
from tokenmerge.spec.shared.constants import LOG_FLOOR

Array = np.ndarray[Any, Any]
ROOM = "information_bottleneck"
LABELS = (np.int64, np.int32, np.uint8)


def _call(subject: Subject, function: str, arrays: dict[str, Array], *rest: Any) -> tuple[Array, dict[str, Array]]:
    """The result of a function of the backend, and its arguments as the backend saw them."""
    module, dtype = subject.module, subject.dtype
    with context(module, dtype):
        given = {
            name: module.from_numpy(a, dtype if a.dtype.kind == "f" else None, subject.device)
            for name, a in arrays.items()
        }
        got = to_numpy(module, getattr(getattr(module, ROOM), function)(*given.values(), *rest))
        return got, {name: to_numpy(module, array) for name, array in given.items()}


def _demand(subject: Subject, finding: Finding) -> None:
    subject.budgets.append(finding.used)
    if not finding.ok:
        raise Mismatch(f"{finding.message} [{ROOM}, {subject.dtype}]")


def _log(value: Rounded) -> Rounded:
    floored = np.maximum(value.value, LOG_FLOOR)
    return Rounded(floored, np.where(value.value < LOG_FLOOR, floored * value.unit, value.error), value.dtype).log()


def _distribution(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Rows that sum to one, some of them with zeros."""
    rows = rng.random(shape) * (rng.random(shape) < 0.8) + 1e-3 * (rng.random(shape) < 0.5)
    rows[..., 0] += 1e-3
    return rows / rows.sum(axis=-1, keepdims=True)


@check(
    f"{ROOM}-cluster_scores", 3, "softmax_a(-beta ||f / ||f|| - c_a||^2); a zero vector stays zero.", "IB-1", needs=ROOM
)
def cluster_scores(subject: Subject, data: Any) -> None:
    rng = np.random.default_rng(data.draw(seeds, label="seed"))
    beta = data.draw(st.sampled_from([0.0, 1.0, 7.5]), label="beta")
    s, c, a = data.draw(st.sampled_from([(5, 4, 3), (131, 67, 35), (0, 4, 3)]), label="S, C, A")
    arrays = {"f": rng.standard_normal((s, c)) * (rng.random((s, 1)) < 0.8), "centroids": rng.standard_normal((a, c))}
    got, seen = _call(subject, "cluster_scores", arrays, beta)
    f, centroids = (Rounded.exact(seen[name], subject.dtype) for name in ("f", "centroids"))
    unit = f / (f * f).sum(axis=1, keepdims=True).sqrt()
    offset = unit[:, None, :] - centroids[None]
    _demand(subject, within("cluster_scores", got, softmax(-((offset * offset).sum(axis=2) * beta))))


@check(
    f"{ROOM}-estimate_q",
    3,
    "Q[a,y] is the mean of phi_out over the samples of class y; zero for an empty class.",
    "IB-2",
    needs=ROOM,
)
def estimate_q(subject: Subject, data: Any) -> None:
    rng = np.random.default_rng(data.draw(seeds, label="seed"))
    s, a, most = data.draw(st.sampled_from([(6, 3, 3), (131, 35, 100), (0, 3, 3)]), label="S, A, Y")
    arrays = {
        "phi_out": _distribution(rng, (s, a)),
        "labels": rng.integers(0, most, s, data.draw(st.sampled_from(LABELS), label="dtype of the labels")),
    }
    given = data.draw(st.sampled_from([(), (most + 2,)]), label="num_classes") if s else (most,)
    got, seen = _call(subject, "estimate_q", arrays, *given)
    classes = given[0] if given else int(arrays["labels"].max()) + 1
    one_hot = Rounded.exact(arrays["labels"][:, None] == np.arange(classes), subject.dtype)
    phi = Rounded.exact(seen["phi_out"], subject.dtype)
    _demand(subject, within("estimate_q", got, (phi.T @ one_hot) / one_hot.sum(axis=0)))


@check(
    f"{ROOM}-ib_bound",
    3,
    "The mean over samples of both sums of the bound; finite for every distribution.",
    "IB-3",
    needs=ROOM,
)
def ib_bound(subject: Subject, data: Any) -> None:
    rng = np.random.default_rng(data.draw(seeds, label="seed"))
    shapes = [(5, 4, 3, 2), (1, 4, 3, 2), (0, 4, 3, 2), (131, 35, 67, 100)]
    s, b, a, classes = data.draw(st.sampled_from(shapes), label="S, B, A, Y")
    arrays = {
        "phi_in": _distribution(rng, (s, b)),
        "phi_out": _distribution(rng, (s, a)),
        "labels": rng.integers(0, classes, s),
        "q": _distribution(rng, (a, classes)),
    }
    got, seen = _call(subject, "ib_bound", arrays)
    into, out, q = (Rounded.exact(seen[name], subject.dtype) for name in ("phi_in", "phi_out", "q"))
    kept = out.sum(axis=1) * (into * _log(into)).sum(axis=1)
    explained = (out * _log(q)[:, seen["labels"].astype(int)].T).sum(axis=1)
    _demand(subject, within("ib_bound", got, (kept - explained).mean(axis=0)))


@check(
    f"{ROOM}-mutual_information",
    3,
    "The mutual information of a joint table, in nats; 0 log 0 = 0.",
    "IB-4",
    needs=ROOM,
)
def mutual_information(subject: Subject, data: Any) -> None:
    rng = np.random.default_rng(data.draw(seeds, label="seed"))
    a, b = data.draw(st.sampled_from([(3, 4), (67, 35)]), label="A, B")
    got, seen = _call(subject, "mutual_information", {"p_ab": _distribution(rng, (a * b,)).reshape(a, b)})
    p = Rounded.exact(seen["p_ab"], subject.dtype)
    gain = _log(p) - _log(p.sum(axis=1, keepdims=True)) - _log(p.sum(axis=0, keepdims=True))
    _demand(subject, within("mutual_information", got, (p * gain).sum(axis=(0, 1))))


# samples, tokens, merged tokens, channels, clusters, classes
MASKS = [(2, 5, 2, 3, 4, 3), (5, 65, 17, 19, 35, 100)]


def _mask_arrays(data: Any, *shapes: tuple[int, ...]) -> dict[str, Array]:
    rng = np.random.default_rng(data.draw(seeds, label="seed"))
    b, n, p, c, a, classes = data.draw(st.sampled_from(shapes or MASKS), label="B, n, P', C, A, Y")
    return {
        "z": rng.standard_normal((b, n, c)),
        "mask": np.swapaxes(_distribution(rng, (b, p, n)), 1, 2),
        # so far apart that several of them count
        "centroids": rng.standard_normal((a, p, c)) * 1.2 / np.sqrt(p * c),
        "q": _distribution(rng, (a, classes)),
        "labels": rng.integers(0, classes, b),
    }


def _mask_scores(seen: dict[str, Array], i: int, dtype: str) -> Rounded:
    z, mask, centroids = (Rounded.exact(seen[n], dtype) for n in ("z", "mask", "centroids"))
    offset = (mask[i].T @ z[i])[None] - centroids
    return softmax(-((offset * offset).sum(axis=(1, 2))))


@check(f"{ROOM}-mask_scores", 3, "phi_a = softmax_a(-||G^T Z - C_a||^2).", "IB-5", needs=ROOM)
def mask_scores(subject: Subject, data: Any) -> None:
    arrays = _mask_arrays(data)
    got, seen = _call(subject, "mask_scores", {name: arrays[name] for name in ("z", "mask", "centroids")})
    for i in range(len(got)):
        _demand(subject, within(f"mask_scores[{i}]", got[i], _mask_scores(seen, i, subject.dtype)))


@check(
    f"{ROOM}-ib_gradient", 3, "The closed form of the bound's gradient with respect to the mask.", "IB-6", needs=ROOM
)
def ib_gradient(subject: Subject, data: Any) -> None:
    got, seen = _call(subject, "ib_gradient", _mask_arrays(data))
    for i, label in enumerate(seen["labels"].astype(int)):
        phi = _mask_scores(seen, i, subject.dtype)
        log_q = _log(Rounded.exact(seen["q"], subject.dtype))[:, label]
        surprise = phi * (log_q - (phi * log_q).sum(axis=0, keepdims=True))
        pulled = (surprise[:, None, None] * Rounded.exact(seen["centroids"], subject.dtype)).sum(axis=0)
        want = (Rounded.exact(seen["z"][i], subject.dtype) @ pulled.T) * -2.0
        _demand(subject, within(f"ib_gradient[{i}]", got[i], want))


@check(
    f"{ROOM}-derivative",
    3,
    "ib_gradient is the derivative of ib_bound.",
    "IB-6",
    needs=ROOM,
    dtype="float64",
    share=0.3,
)
def derivative(subject: Subject, data: Any) -> None:
    arrays = _mask_arrays(data, MASKS[0])
    got, _ = _call(subject, "ib_gradient", arrays)
    phi_in, q = np.array([[0.5, 0.5]]), arrays["q"]
    for i, label in enumerate(arrays["labels"]):

        def bound(mask: Array, i: int = i, label: int = int(label)) -> float:
            phi = spec.mask_scores(arrays["z"][i], mask, arrays["centroids"])
            return float(spec.ib_bound(phi_in, phi[None], np.array([label]), q))

        _demand(subject, within(f"ib_gradient[{i}]", got[i], central_differences(bound, arrays["mask"][i].copy())))
