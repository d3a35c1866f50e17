"""Proportional attention and pooling."""

from __future__ import annotations

from typing import Any

from tokenmerge.conformance.vectors.vector import Array, Vector, booleans, floats, mixed

QUERY, KEY, VALUE = (mixed((2, 2, n, 2), seed, 8) for n, seed in ((3, 1), (4, 2), (4, 3)))
SIZE, MASK = floats([[1, 4, 2, 0], [300, 1, 1, 2]]), booleans("1101", "0000")
X = mixed((2, 4, 3), 4, 4)


def weights(name: str, about: str, scale: float | None = None, **given: Array) -> Vector:
    inputs = {"query": QUERY, "key": KEY} | given
    return Vector(name, ("ATT-1",), about, "attention_weights", {"scale": scale}, inputs)


def values(name: str, about: str, **given: Array) -> Vector:
    inputs = {"query": QUERY, "key": KEY, "value": VALUE} | given
    return Vector(name, ("ATT-2", "ATT-1"), about, "attention", {"scale": None}, inputs)


def pool(name: str, about: str, rules: str = "POOL-1", x: Array = X, samples: Any = None, **given: Array) -> Vector:
    return Vector(name, tuple(rules.split()), about, "mean_pool", {}, {"x": x} | given, {}, samples)


VECTORS = [
    weights("att-1-plain", "Without sizes it is ordinary attention, scaled by d**-0.5."),
    weights("att-1-scale", "A scale that is given.", 1.0),
    weights("att-1-sizes", "log size is added to the logits; a key of size 0 has weight 0.", size=SIZE),
    weights("att-1-mask", "Sample 1 has no real key: rows of zeros.", size=SIZE, mask=MASK),
    values("att-2-plain", "Weights times values."),
    values("att-2-sizes", "The same with sizes and a mask.", size=SIZE, mask=booleans("1101", "0111")),
    pool("pool-1-plain", "The mean."),
    pool("pool-1-sizes", "The mean weighted by size.", size=SIZE),
    pool("pool-1-mask", "Over the real tokens only; zeros where nothing is real.", size=SIZE, mask=MASK),
    pool("pool-1-no-size", "Sizes that are all zero: zeros.", size=SIZE * 0),
    pool("call-5-pool-no-tokens", "N = 0: zeros.", "CALL-5 POOL-1", X[:, :0]),
]
