"""The information bottleneck, broken: one mutant per formula."""

from __future__ import annotations

from tokenmerge.conformance.mutants.edited import Edit
from tokenmerge.conformance.mutants.mutant import Mutant


def _mutant(name: str, rule: str, what: str, old: str, new: str) -> Mutant:
    return Mutant(f"ib-{name}", rule, what, (Edit("information_bottleneck", old, new),))


MUTANTS = (
    _mutant(
        "features-not-normalized",
        "IB-1",
        "Cluster scores take the features as they are, not their directions.",
        "unit = safe_divide(f, np.sqrt(np.square(f).sum(axis=1, keepdims=True)))",
        "unit = f",
    ),
    _mutant(
        "mean-over-all-samples",
        "IB-2",
        "Q is divided by the number of samples and not of those in the class.",
        "one_hot.sum(axis=0))",
        "np.full(classes, len(labels), one_hot.dtype))",
    ),
    _mutant(
        "bound-summed",
        "IB-3",
        "The bound is the sum over the samples.",
        "(kept - explained).sum() / work.type(max(s, 1))",
        "(kept - explained).sum()",
    ),
    _mutant(
        "bound-not-finite",
        "IB-3",
        "The bound takes the logarithm of zero.",
        "explained = (out * _log(q.astype(work))[:, labels].T).sum(axis=1)",
        "explained = (out * np.log(q.astype(work))[:, labels].T).sum(axis=1)",
    ),
    _mutant(
        "information-in-bits",
        "IB-4",
        "Mutual information is in bits.",
        "_log(p.sum(axis=0, keepdims=True)))).sum())",
        "_log(p.sum(axis=0, keepdims=True)))).sum() / np.log(p.dtype.type(2)))",
    ),
    _mutant(
        "distance-not-squared",
        "IB-5",
        "Merged tokens are scored by the distance and not by its square.",
        "softmax(-np.square(merged[:, None] - centroids.astype(work)).sum(axis=(2, 3)))",
        "softmax(-np.sqrt(np.square(merged[:, None] - centroids.astype(work)).sum(axis=(2, 3))))",
    ),
    _mutant(
        "gradient-not-centred",
        "IB-6",
        "The gradient leaves the mean of log Q out.",
        "surprise = phi * (log_q - (phi * log_q).sum(axis=1, keepdims=True))",
        "surprise = phi * log_q",
    ),
)
