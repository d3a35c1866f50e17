"""The information bottleneck: functions of samples and clusters."""

from __future__ import annotations

from typing import Any

from tokenmerge.conformance.vectors.vector import Array, Vector, floats, integers, mixed


def call(function: str, name: str, rule: str, about: str, config: dict[str, Any], **inputs: Array) -> Vector:
    return Vector(name, (rule,), about, function, config, inputs)


PHI_IN = floats([[8, 4, 4, 0], [1, 2, 4, 9], [16, 0, 0, 0]]) / 16
PHI_OUT = floats([[12, 4, 0], [2, 6, 8], [5, 5, 6]]) / 16
Q = floats([[8, 4], [6, 8], [2, 4]]) / 16
MASK = {
    "z": mixed((2, 4, 2), 1, 16),
    "mask": floats([[[8, 1], [4, 1], [2, 6], [2, 8]], [[4, 16], [4, 0], [4, 0], [4, 0]]]) / 16,
    "centroids": mixed((3, 2, 2), 4, 16),
}

VECTORS = [
    call(
        "cluster_scores",
        "ib-1-cluster-scores",
        "IB-1",
        "Only the direction of f counts; a zero vector stays zero.",
        {"beta": 2.5},
        f=floats([[3, 4], [48, 64], [0, 0], [-1, 2]]),
        centroids=floats([[1, 0], [0, 1], [-0.5, 0.5]]),
    ),
    call(
        "cluster_scores",
        "ib-1-beta-zero",
        "IB-1",
        "beta = 0 makes all clusters alike.",
        {"beta": 0.0},
        f=floats([[3, 4], [0, 0]]),
        centroids=floats([[1, 0], [0, 1], [-0.5, 0.5]]),
    ),
    call(
        "estimate_q",
        "ib-2-estimate-q",
        "IB-2",
        "Class 1 has no sample: a column of zeros. The number of classes is the largest label plus one.",
        {"num_classes": None},
        phi_out=PHI_OUT,
        labels=integers([2, 0, 2]),
    ),
    call(
        "estimate_q",
        "ib-2-more-classes",
        "IB-2",
        "More classes than labels.",
        {"num_classes": 4},
        phi_out=PHI_OUT,
        labels=integers([2, 0, 2]),
    ),
    call(
        "ib_bound",
        "ib-3-bound",
        "IB-3",
        "Zeros in phi_in: 0 log 0 = 0.",
        {},
        phi_in=PHI_IN,
        phi_out=PHI_OUT,
        labels=integers([1, 0, 1]),
        q=Q,
    ),
    call(
        "ib_bound",
        "ib-3-finite",
        "IB-3",
        "Q is 0 where phi_out is not: its logarithm is that of 1e-12, the bound stays finite.",
        {},
        phi_in=PHI_IN,
        phi_out=PHI_OUT,
        labels=integers([1, 0, 1]),
        q=floats([[1, 0], [0, 1], [0, 0]]),
    ),
    call(
        "mutual_information",
        "ib-4-mutual-information",
        "IB-4",
        "A joint table with zeros, in nats.",
        {},
        p_ab=floats([[4, 0, 1], [2, 1, 0], [0, 8, 0]]) / 16,
    ),
    call(
        "mutual_information",
        "ib-4-independent",
        "IB-4",
        "A product of two distributions has none.",
        {},
        p_ab=floats([[3, 1], [9, 3]]) / 16,
    ),
    call("mask_scores", "ib-5-mask-scores", "IB-5", "Two samples against three centroids.", {}, **MASK),
    call(
        "ib_gradient",
        "ib-6-gradient",
        "IB-6",
        "One gradient per sample, for its own label.",
        {},
        **MASK,
        q=Q,
        labels=integers([1, 0]),
    ),
    call(
        "ib_gradient",
        "ib-6-gradient-zero-in-q",
        "IB-6",
        "A cluster without samples of the class: log Q is that of 1e-12.",
        {},
        **MASK,
        q=floats([[8, 0], [8, 8], [0, 8]]) / 16,
        labels=integers([1, 0]),
    ),
]
