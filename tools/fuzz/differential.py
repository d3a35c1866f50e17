"""Random valid calls with special values, every backend against the reference: `python tools/fuzz/differential.py`.

Inputs are drawn so that their arithmetic is exact, or so that a decision does not depend on rounding: directions along
the axes, powers of two, and NaN, infinities, -0.0, subnormals and 2**126 among them. So decisions must be equal, and
values equal or both of the same kind (`different` is a finding). A sample is a case in every backend that it goes to;
`calls` counts how often the reference and the backends were asked with a batch of them.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from fuzz_run import Tally, main

from tokenmerge import get_merger
from tokenmerge.backends import get_backend
from tokenmerge.spec import information_bottleneck, plan

BACKENDS = ("numpy", "torch", "jax")
SPECIAL = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, -1e-42, 1e-38, 2.0**126, -(2.0**127), 3e38], "f4")
# samples and tokens of a call; few shapes, because JAX compiles each of them, and mostly many samples, each a case
SHAPES = ((1, 2), (2, 5), (0, 4), (1, 1), (32, 6), (1, 0), (64, 9), (48, 5))
Array = np.ndarray[Any, Any]


def special(generator: np.random.Generator, values: Array, share: float = 0.1) -> Array:
    """Some of the values replaced by special ones."""
    chosen = generator.random(values.shape) < share * (generator.random() < 0.7)
    return np.where(chosen, generator.choice(SPECIAL, values.shape), values).astype("f4")


def directions(generator: np.random.Generator, b: int, n: int) -> Array:
    """Vectors along the axes, of any length that is a power of two, signs and zeros included.

    Beside another entry only NaN, infinity and -0.0: an entry that is subnormal beside the largest counts for some
    frameworks and not for others, which is a near-tie as the conformance suite certifies them.
    """
    axis = np.eye(4, dtype="f4")[generator.integers(0, 4, (b, n))]
    scale = 2.0 ** generator.integers(-149, 128, (b, n, 1)) * generator.choice([1, -1, 0], (b, n, 1), p=[0.6, 0.3, 0.1])
    chosen = generator.random(axis.shape) < 0.05 * (generator.random() < 0.7)
    return np.where(chosen, generator.choice(SPECIAL[:4], axis.shape), axis * scale).astype("f4")


def same(got: Array, want: Array) -> bool:
    """Equal, NaN and infinities too."""
    return got.shape == want.shape and np.array_equal(got, want, equal_nan=got.dtype.kind == "f")


def alike(got: Array, want: Array) -> bool:
    """Finite, NaN or infinite in the same places."""
    kinds = [np.isnan(each) * 2 + np.isposinf(each) * 3 - np.isneginf(each) for each in (got, want)]
    return got.shape == want.shape and bool((kinds[0] == kinds[1]).all())


def results(case: str, backend: str, drawn: dict[str, Array], options: dict[str, Any]) -> dict[str, tuple[Array, bool]]:
    """What a backend makes of a case: arrays, and whether they must be equal or only alike."""
    module: Any = get_backend(backend)
    given = {name: module.from_numpy(value) for name, value in drawn.items()}
    out: dict[str, tuple[Any, bool]] = {}
    if case == "tome":
        metric = given.pop("metric")
        x, size = given.pop("x"), given.pop("size")
        made = get_merger("tome", backend=backend, **options).plan(metric, **given)
        out = {"assignment": (made.assignment, True), "size": (made.merge_size(size), True)}
        if made.mask is not None:
            out["mask"] = (made.mask, True)
        out["tokens"] = (made.merge(x, size), False)
        out["back"] = (made.unmerge(x[:, : made.num_tokens_out]), True)
    elif case == "ats":
        made = get_merger("ats", backend=backend, **options).plan(**given)
        out = {"indices": (made.indices, True), "mask": (made.mask, True)}
    elif case == "dense":
        if backend == "spec":
            pairs = [plan.DensePlan(weights) for weights in drawn["weights"]]
            merged = [one.merge(x) for one, x in zip(pairs, drawn["x"], strict=True)]
            sizes = [one.merge_size(size) for one, size in zip(pairs, drawn["size"], strict=True)]
            back = [one.unmerge(y) for one, y in zip(pairs, drawn["y"], strict=True)]
            out = {name: (np.stack(v), False) for name, v in (("tokens", merged), ("size", sizes), ("back", back))}
        else:
            dense = module.DensePlan(given["weights"])
            out = {"tokens": (dense.merge(given["x"]), False), "size": (dense.merge_size(given["size"]), False)}
            out["back"] = (dense.unmerge(given["y"]), False)
    else:
        functions = information_bottleneck if backend == "spec" else module.information_bottleneck
        out = {"q": (functions.estimate_q(given["phi_out"], given["labels"]), False)}
    return {name: (module.to_numpy(value), exact) for name, (value, exact) in out.items()}


def drawn(generator: np.random.Generator, case: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays and options of a case."""
    b, n = SHAPES[generator.integers(len(SHAPES))]
    if case == "tome":
        options: dict[str, Any] = {
            "r": int(generator.integers(0, 3)),
            "protected": int(generator.integers(0, min(n, 1) + 1)),
        }
        options["matching"] = str(generator.choice(["bipartite", "kth", "random"]))
        if options["matching"] == "kth":
            options["k"], options["r"] = int(generator.integers(1, 4)), None
        elif options["matching"] == "bipartite":
            options["order"] = str(generator.choice(["grouped", "positional", "score"]))
        arrays = {"metric": directions(generator, b, n), "x": special(generator, generator.integers(-4, 5, (b, n, 3)))}
        arrays["size"] = generator.choice([0, 1, 2, 4, 2.0**100], (b, n)).astype("f4")
        if options["matching"] == "random":
            kind = generator.choice(["i4", "i8", "u1"])
            arrays["permutation"] = generator.permuted(np.tile(np.arange(n), (b, 1)), axis=1).astype(kind)
        if generator.random() < 0.5:
            arrays["mask"] = generator.random((b, n)) < 0.7
        return arrays, options
    if case == "ats":
        attn = 2.0 ** generator.integers(-4, 1, (b, 1, n)) * (generator.random((b, 1, n)) < 0.8)
        value = np.zeros((b, 1, n, 2), "f4")
        value[..., 0] = 1
        arrays = {"attn": attn.astype("f4"), "value": value}
        if generator.random() < 0.5:
            arrays["mask"] = generator.random((b, n)) < 0.7
        if n:  # all shares are exact where they add up to a power of two
            arrays["attn"][:, :, 1:] = (arrays["attn"][:, :, 1:] > 0) / 1.0
        return arrays, {"max_tokens": int(generator.choice([1, 2, 4]))}
    if case == "dense":
        weights = generator.choice([0, 0.25, 0.5, 1], (b, 3, n)).astype("f4")
        arrays = {"weights": weights, "x": special(generator, generator.integers(-4, 5, (b, n, 3)))}
        arrays["size"] = special(generator, generator.choice([0, 1, 2], (b, n)))
        arrays["y"] = special(generator, generator.integers(-4, 5, (b, 3, 3)))
        for name in ("x", "size", "y"):  # a sum that leaves the range half way depends on the order of its terms
            large = np.isfinite(arrays[name]) & (np.abs(arrays[name]) > 2.0**100)
            arrays[name] = np.where(large, arrays[name] * np.float32(2.0**-8), arrays[name])
        return arrays if b else drawn(generator, case)[0], {}
    s = int(generator.integers(0, 6))
    labels = generator.integers(0, 4, s).astype(generator.choice(["u1", "u2", "u4", "i1", "i8", "u8"]))
    return {"phi_out": generator.choice([0, 0.5, 1], (s, 3)).astype("f4"), "labels": labels}, {}


def one(generator: np.random.Generator, tally: Tally) -> None:
    """One case in every backend."""
    case = str(generator.choice(["tome", "tome", "ats", "dense", "labels"]))
    arrays, options = drawn(generator, case)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        want = results(case, "spec", arrays, options)
        for backend in BACKENDS:
            try:
                got = results(case, backend, arrays, options)
            except Exception as error:
                tally.add("raised", f"{backend} {case} {options}: {type(error).__name__}: {str(error)[:200]}")
                continue
            samples = len(next(iter(arrays.values()))) if case != "labels" else 1
            wrong = [
                name
                for name, (value, exact) in want.items()
                if not (same if exact else alike)(got[name][0], value.astype(got[name][0].dtype))
            ]
            text = (
                f"{backend} {case} {options}: {wrong[0]} of { ({k: v.tolist() for k, v in arrays.items()}) }"
                if wrong
                else ""
            )
            tally.add("different" if wrong else "equal", text[:1500], 1 if wrong else max(1, samples))
            tally.calls += 1


if __name__ == "__main__":
    sys.exit(main("differential", ("equal", "different", "raised"), one))
