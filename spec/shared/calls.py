"""The array arguments of every public call, checked the same way in every backend.

A backend makes one `Calls` with its own array class; the spec makes one without the batch axis. The options (`r`,
`order`, ...) are checked by `arguments.py`, so that a merger object refuses them when it is made.
"""

from __future__ import annotations

from typing import Any

from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.schedule import ltm_tokens_out

Shape = tuple[int, ...]


class Calls:
    """Checks of one backend.

    Args:
        array_type: the backend's array class or classes.
        batched: whether arrays have the leading axis B.

    Every method raises TypeError or ValueError with one sentence, before any work.

    >>> import numpy as np
    >>> Calls(np.ndarray).tome(np.ones((2, 5)), None, None, "bipartite", 0)
    Traceback (most recent call last):
    ...
    ValueError: tome: `metric` must have shape (B, N, D), got (2, 5)
    """

    def __init__(self, array_type: type | tuple[type, ...], batched: bool = True) -> None:
        self.array_type = array_type
        self.lead = "B " if batched else ""

    def array(
        self, owner: str, name: str, array: Any, letters: str, kind: str = "floating point", /, **sizes: int
    ) -> Shape:
        """One array without the batch axis in front, or with its own."""
        return arguments.check_array(owner, name, array, letters, kind=kind, array_type=self.array_type, **sizes)

    def sample(
        self, owner: str, name: str, array: Any, letters: str, kind: str = "floating point", /, **sizes: int
    ) -> Shape:
        """One array per sample; the batch axis is left out of `letters` and of the shape returned."""
        shape = self.array(owner, name, array, self.lead + letters, kind, **sizes)
        return shape[len(self.lead) // 2 :]

    def optional(
        self, owner: str, name: str, array: Any, letters: str, kind: str = "floating point", /, **sizes: int
    ) -> None:
        """As `sample`, where None is fine."""
        if array is not None:
            self.sample(owner, name, array, letters, kind, **sizes)

    def batch(self, array: Any) -> dict[str, int]:
        """The size of the batch axis, to hold other arrays against; nothing where there is none."""
        return {"B": array.shape[0]} if self.lead else {}

    # The four mergers: what their `plan` takes, and what their call takes besides.

    def tome(self, metric: Any, mask: Any, permutation: Any, matching: str, protected: int) -> Shape:
        n, d = self.sample("tome", "metric", metric, "N D")
        arguments.check_protected("tome", protected, n)
        arguments.check_given("tome", "permutation", permutation, matching == "random", "matching='random'")
        sizes = self.batch(metric) | {"N": n}
        self.optional("tome", "permutation", permutation, "N", "integer", **sizes)
        self.optional("tome", "mask", mask, "N", "bool", **sizes)
        return n, d

    def ats(self, attn: Any, value: Any, mask: Any, uniforms: Any, noise: Any, max_tokens: int, sampling: str) -> Shape:
        h, n, d = self.sample("ats", "value", value, "H N d")
        sizes = self.batch(value) | {"H": h, "N": n, "K": max_tokens, "N-1": max(n - 1, 0)}
        whole = len(getattr(attn, "shape", ())) == len(value.shape)
        self.sample("ats", "attn", attn, "H N N" if whole else "H N", **sizes)
        self.optional("ats", "mask", mask, "N", "bool", **sizes)
        arguments.check_given("ats", "noise", noise, sampling == "gumbel", "sampling='gumbel'")
        if sampling != "inverse_transform":
            arguments.check_given("ats", "uniforms", uniforms, False, "sampling='inverse_transform'")
        self.optional("ats", "uniforms", uniforms, "K", **sizes)
        self.optional("ats", "noise", noise, "K N-1", **sizes)
        return h, n, d

    def patch_merger(self, x: Any, queries: Any, scale: Any, bias: Any, mask: Any) -> Shape:
        n, c = self.sample("patch_merger", "x", x, "N C")
        self.array("patch_merger", "queries", queries, "M C", C=c)
        for name, vector in (("scale", scale), ("bias", bias)):
            if vector is not None:
                self.array("patch_merger", name, vector, "C", C=c)
        self.optional("patch_merger", "mask", mask, "N", "bool", **self.batch(x), N=n)
        return n, c

    def ltm(self, x: Any, weight: Any, prior: Any, mask: Any, compression_ratio: float, protected: int) -> Shape:
        n, c = self.sample("ltm", "x", x, "N C")
        arguments.check_protected("ltm", protected, n)
        self.array("ltm", "weight", weight, "C", C=c)
        rest = n - protected
        sizes = self.batch(x) | {"N": n, "n": rest, "P'": ltm_tokens_out(rest, compression_ratio)}
        if prior is not None:
            own = self.lead if len(getattr(prior, "shape", ())) == 3 else ""
            self.array("ltm", "prior", prior, own + "n P'", **sizes)
        self.optional("ltm", "mask", mask, "N", "bool", **sizes)
        return n, c

    def tokens(self, owner: str, x: Any, size: Any, other: Any = None, **sizes: int) -> None:
        """What a merger's call takes: tokens, sizes, and another array `(name, value, letters)` of as many tokens."""
        n, _ = self.sample(owner, "x", x, "N C", **sizes)
        known = self.batch(x) | {"N": n}
        if other is not None:
            name, array, letters = other
            self.optional(owner, name, array, letters, **known)
        self.optional(owner, "size", size, "N", **known)

    # What networks need around the mergers.

    def attention(self, query: Any, key: Any, size: Any, mask: Any) -> dict[str, int]:
        """Returns the sizes that a value must have."""
        h, _, d = self.sample("attention", "query", query, "H M d")
        sizes = self.batch(query) | {"H": h}
        _, n, _ = self.sample("attention", "key", key, "H N d", **sizes, d=d)
        sizes |= {"N": n}
        self.optional("attention", "size", size, "N", **sizes)
        self.optional("attention", "mask", mask, "N", "bool", **sizes)
        return sizes

    def mean_pool(self, x: Any, size: Any, mask: Any) -> None:
        self.tokens("mean_pool", x, size)
        self.optional("mean_pool", "mask", mask, "N", "bool", **self.batch(x), N=x.shape[-2])

    # The information bottleneck: samples are an axis S of their own, only masks have a batch axis.

    def cluster_scores(self, f: Any, centroids: Any, beta: float) -> None:
        owner = "information_bottleneck"
        _, c = self.array(owner, "f", f, "S C")
        self.array(owner, "centroids", centroids, "A C", C=c)
        arguments.check_real(owner, "beta", beta, 0.0, float("inf"), "[0, inf)")

    def estimate_q(self, phi_out: Any, labels: Any, num_classes: Any) -> None:
        owner = "information_bottleneck"
        s, _ = self.array(owner, "phi_out", phi_out, "S A")
        self.array(owner, "labels", labels, "S", "integer", S=s)
        if num_classes is not None:
            arguments.check_integer(owner, "num_classes", num_classes, minimum=1)

    def ib_bound(self, phi_in: Any, phi_out: Any, labels: Any, q: Any) -> int:
        """Returns the number of samples."""
        owner = "information_bottleneck"
        s, _ = self.array(owner, "phi_in", phi_in, "S B")
        _, a = self.array(owner, "phi_out", phi_out, "S A", S=s)
        self.array(owner, "labels", labels, "S", "integer", S=s)
        self.array(owner, "q", q, "A Y", A=a)
        return s

    def mask_scores(self, z: Any, mask: Any, centroids: Any) -> None:
        owner = "information_bottleneck"
        n, c = self.sample(owner, "z", z, "n C")
        _, p = self.sample(owner, "mask", mask, "n P'", **self.batch(z), n=n)
        self.array(owner, "centroids", centroids, "A P' C", **{"P'": p, "C": c})
