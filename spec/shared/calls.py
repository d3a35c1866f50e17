"""The array arguments of every public call, checked the same way in every backend.

A backend makes one `Calls` with its own array class; the spec makes one without the batch axis. The options (`r`,
`order`, ...) are checked by `arguments.py`, so that a merger object refuses them when it is made.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenmerge.spec.shared import arguments
from tokenmerge.spec.shared.schedule import ltm_tokens_out

Shape = tuple[int, ...]


class Calls:
    """Checks of one backend.

    Args:
        array_type: the backend's array class or classes.
        batched: whether arrays have the leading axis B.

    Every method raises TypeError or ValueError with one sentence, before any work. A backend whose arrays can be odd,
    lie on devices or hide their entries says so in `odd`, `together` and `readable`.

    >>> import numpy as np
    >>> Calls(np.ndarray).tome(np.ones((2, 5)), None, None, "bipartite", 0)
    Traceback (most recent call last):
    ...
    ValueError: tome: `metric` must have shape (B, N, D), got (2, 5)
    """

    source: type | tuple[type, ...] = np.random.Generator  # of random numbers
    scalar: type | tuple[type, ...] = np.generic  # what a result without axes may be, beside an array

    def __init__(self, array_type: type | tuple[type, ...], batched: bool = True) -> None:
        self.array_type = array_type
        self.lead = "B " if batched else ""

    def array(
        self, owner: str, name: str, array: Any, letters: str, kind: str = "floating point", /, **sizes: int
    ) -> Shape:
        """One array without the batch axis in front, or with its own."""
        return arguments.check_array(
            owner, name, array, letters, kind=kind, array_type=self.array_type, odd=self.odd, **sizes
        )

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

    def to_numpy(self, array: Any) -> None:
        """What `to_numpy` takes."""
        arguments.check_own_array(array, (self.array_type, self.scalar), self.odd)

    def batch(self, array: Any) -> dict[str, int]:
        """The size of the batch axis, to hold other arrays against; nothing where there is none."""
        return {"B": array.shape[0]} if self.lead else {}

    # What a backend may know better.

    def odd(self, array: Any) -> str:
        """What an array is that not every operation takes, such as a masked one; "" for a plain one."""
        if isinstance(array, np.ndarray) and type(array) is not np.ndarray and not isinstance(array, np.memmap):
            return f"{type(array).__module__}.{type(array).__name__}"
        return ""

    def together(self, owner: str, **arrays: Any) -> None:
        """Check that arrays, or None, are on one device."""

    def readable(self, array: Any) -> Any:
        """The entries of an integer array for NumPy, where looking at them is free; else None."""
        return array

    def largest(self, array: Any) -> int:
        """The largest entry, -1 if there is none; unlike a `max` with that as its default right for unsigned ones."""
        return max(int(array.max()), -1) if 0 not in array.shape else -1

    def entries(self, owner: str, name: str, array: Any, low: int, below: int, end: str) -> None:
        """Check that integers are in `low..below-1`, where looking is free; `end` names `below`."""
        seen = self.readable(array)
        if seen is None or not seen.size:
            return
        least, most = int(seen.min()), int(seen.max())
        if least < low or most >= below:
            got = most if most >= below else least
            raise ValueError(f"{owner}: `{name}` must be integers >= {low} and < {end} = {below}, got {got}")

    # The four mergers: what their `plan` takes, and what their call takes besides.

    def tome(self, metric: Any, mask: Any, permutation: Any, matching: str, protected: int) -> Shape:
        n, d = self.sample("tome", "metric", metric, "N D")
        arguments.check_protected("tome", protected, n)
        arguments.check_given("tome", "permutation", permutation, matching == "random", "matching='random'")
        sizes = self.batch(metric) | {"N": n}
        self.optional("tome", "permutation", permutation, "N", "integer", **sizes)
        self.optional("tome", "mask", mask, "N", "bool", **sizes)
        self.together("tome", metric=metric, mask=mask, permutation=permutation)
        if permutation is not None:
            self.permutation("tome", "permutation", permutation)
        return n, d

    def permutation(self, owner: str, name: str, array: Any) -> None:
        """Check that every row holds each position once, where looking is free."""
        seen = self.readable(array)
        if seen is None:
            return
        n = seen.shape[-1]
        if not (np.sort(seen, axis=-1) == np.arange(n)).all():
            raise ValueError(f"{owner}: `{name}` must hold every position from 0 to N - 1 = {n - 1} once, got others")

    def ats(self, attn: Any, value: Any, mask: Any, uniforms: Any, noise: Any, max_tokens: int, sampling: str) -> Shape:
        h, n, d = self.sample("ats", "value", value, "H N d")
        sizes = self.batch(value) | {"H": h, "N": n, "K": max_tokens, "N-1": max(n - 1, 0)}
        whole = arguments.rank(attn) == len(value.shape)
        self.sample("ats", "attn", attn, "H N N" if whole else "H N", **sizes)
        self.optional("ats", "mask", mask, "N", "bool", **sizes)
        arguments.check_given("ats", "noise", noise, sampling == "gumbel", "sampling='gumbel'")
        if sampling != "inverse_transform":
            arguments.check_given("ats", "uniforms", uniforms, False, "sampling='inverse_transform'")
        self.optional("ats", "uniforms", uniforms, "K", **sizes)
        self.optional("ats", "noise", noise, "K N-1", **sizes)
        self.together("ats", value=value, attn=attn, mask=mask, uniforms=uniforms, noise=noise)
        return h, n, d

    def ats_scores(self, attn: Any, value: Any, score: Any, mask: Any) -> None:
        """What `scores` takes."""
        arguments.check_score(score)
        self.ats(attn, value, mask, None, None, 1, "inverse_transform")

    def patch_merger(self, x: Any, queries: Any, scale: Any, bias: Any, mask: Any) -> Shape:
        n, c = self.sample("patch_merger", "x", x, "N C")
        self.array("patch_merger", "queries", queries, "M C", C=c)
        for name, vector in (("scale", scale), ("bias", bias)):
            if vector is not None:
                self.array("patch_merger", name, vector, "C", C=c)
        self.optional("patch_merger", "mask", mask, "N", "bool", **self.batch(x), N=n)
        self.together("patch_merger", x=x, queries=queries, scale=scale, bias=bias, mask=mask)
        return n, c

    def layer_norm(self, x: Any, scale: Any, bias: Any, eps: Any) -> None:
        """What `layer_norm` takes: `x` of any rank, the channels last."""
        axes = {1: "C", 2: "N C", 4: "B H N C"}
        c = self.array("layer_norm", "x", x, axes.get(arguments.rank(x), "B N C"))[-1]
        for name, vector in (("scale", scale), ("bias", bias)):
            if name == "scale" or vector is not None:
                self.array("layer_norm", name, vector, "C", C=c)
        arguments.check_real("layer_norm", "eps", eps, 0.0, float("inf"), "[0, inf)")
        self.together("layer_norm", x=x, scale=scale, bias=bias)

    def ltm(self, x: Any, weight: Any, prior: Any, mask: Any, compression_ratio: float, protected: int) -> Shape:
        n, c = self.sample("ltm", "x", x, "N C")
        arguments.check_protected("ltm", protected, n)
        self.array("ltm", "weight", weight, "C", C=c)
        rest = n - protected
        sizes = self.batch(x) | {"N": n, "n": rest, "P'": ltm_tokens_out(rest, compression_ratio)}
        if prior is not None:
            own = self.lead if arguments.rank(prior) == 3 else ""
            self.array("ltm", "prior", prior, own + "n P'", **sizes)
        self.optional("ltm", "mask", mask, "N", "bool", **sizes)
        self.together("ltm", x=x, weight=weight, prior=prior, mask=mask)
        return n, c

    def chain(self, plan: Any, protected: Any, dense: type[Any]) -> int:
        """What `chain` takes; returns `protected` as an integer."""
        if not isinstance(plan, dense):
            raise TypeError(f"chain: `plan` must be a dense plan of this backend, got {arguments.shown(plan)}")
        protected = arguments.check_integer("chain", "protected", protected, minimum=0)
        arguments.check_protected("chain", protected, min(plan.num_tokens_in, plan.num_tokens_out))
        return protected

    def tokens(self, owner: str, x: Any, size: Any, other: Any = None, **sizes: int) -> None:
        """What a merger's call takes: tokens, sizes, and another array `(name, value, letters)` of as many tokens."""
        n, _ = self.sample(owner, "x", x, "N C", **sizes)
        known, beside = self.batch(x) | {"N": n}, {}
        if other is not None:
            name, array, letters = other
            self.optional(owner, name, array, letters, **known)
            beside = {name: array}
        self.optional(owner, "size", size, "N", **known)
        self.together(owner, x=x, size=size, **beside)

    # What networks need around the mergers.

    def attention(self, query: Any, key: Any, size: Any, mask: Any, scale: Any) -> dict[str, int]:
        """Returns the sizes that a value must have."""
        h, _, d = self.sample("attention", "query", query, "H M d")
        sizes = self.batch(query) | {"H": h}
        _, n, _ = self.sample("attention", "key", key, "H N d", **sizes, d=d)
        sizes |= {"N": n}
        self.optional("attention", "size", size, "N", **sizes)
        self.optional("attention", "mask", mask, "N", "bool", **sizes)
        self.together("attention", query=query, key=key, size=size, mask=mask)
        if scale is not None:
            infinity = float("inf")
            arguments.check_real("attention", "scale", scale, -infinity, infinity, "(-inf, inf)")
        elif d == 0:
            raise ValueError("attention: `scale` must be given for heads without channels, got None")
        return sizes

    def mean_pool(self, x: Any, size: Any, mask: Any) -> None:
        self.tokens("mean_pool", x, size)
        self.optional("mean_pool", "mask", mask, "N", "bool", **self.batch(x), N=x.shape[-2])
        self.together("mean_pool", x=x, mask=mask)

    # The information bottleneck: samples are an axis S of their own, only masks have a batch axis.

    def cluster_scores(self, f: Any, centroids: Any, beta: float) -> None:
        owner = "information_bottleneck"
        _, c = self.array(owner, "f", f, "S C")
        self.array(owner, "centroids", centroids, "A C", C=c)
        self.together(owner, f=f, centroids=centroids)
        arguments.check_real(owner, "beta", beta, 0.0, float("inf"), "[0, inf)")

    def estimate_q(self, phi_out: Any, labels: Any, num_classes: Any) -> int:
        """Returns the number of classes, which reads the labels if it is not given."""
        owner = "information_bottleneck"
        s, _ = self.array(owner, "phi_out", phi_out, "S A")
        self.array(owner, "labels", labels, "S", "integer", S=s)
        self.together(owner, phi_out=phi_out, labels=labels)
        if num_classes is None:
            num_classes = self.largest(labels) + 1
        else:
            num_classes = arguments.check_integer(owner, "num_classes", num_classes, minimum=1)
        self.entries(owner, "labels", labels, 0, num_classes, "Y")
        return num_classes

    def ib_bound(self, phi_in: Any, phi_out: Any, labels: Any, q: Any) -> int:
        """Returns the number of samples."""
        owner = "information_bottleneck"
        s, _ = self.array(owner, "phi_in", phi_in, "S B")
        _, a = self.array(owner, "phi_out", phi_out, "S A", S=s)
        self.array(owner, "labels", labels, "S", "integer", S=s)
        _, classes = self.array(owner, "q", q, "A Y", A=a)
        self.together(owner, phi_in=phi_in, phi_out=phi_out, labels=labels, q=q)
        self.entries(owner, "labels", labels, 0, classes, "Y")
        return s

    def mutual_information(self, p_ab: Any) -> None:
        self.array("information_bottleneck", "p_ab", p_ab, "A B")

    def mask_scores(self, z: Any, mask: Any, centroids: Any) -> None:
        owner = "information_bottleneck"
        n, c = self.sample(owner, "z", z, "n C")
        _, p = self.sample(owner, "mask", mask, "n P'", **self.batch(z), n=n)
        self.array(owner, "centroids", centroids, "A P' C", **{"P'": p, "C": c})
        self.together(owner, z=z, mask=mask, centroids=centroids)

    def ib_gradient(self, z: Any, mask: Any, centroids: Any, q: Any, labels: Any) -> None:
        owner = "information_bottleneck"
        self.mask_scores(z, mask, centroids)
        _, classes = self.array(owner, "q", q, "A Y", A=centroids.shape[0])
        self.array(owner, "labels", labels, "B", "integer", **self.batch(z))
        self.together(owner, z=z, q=q, labels=labels)
        self.entries(owner, "labels", labels, 0, classes, "Y")

    # Plans.

    def partition(self, assignment: Any, num_tokens_out: Any, mask: Any) -> int:
        """What a partition is made of; returns P, which reads the data if it is not given."""
        self.sample("plan", "assignment", assignment, "N", "integer")
        if num_tokens_out is None:
            num_tokens_out = self.largest(assignment) + 1
        else:
            num_tokens_out = arguments.check_integer("plan", "num_tokens_out", num_tokens_out, minimum=0)
        self.optional("plan", "mask", mask, "P", "bool", **self.batch(assignment), P=num_tokens_out)
        self.together("plan", assignment=assignment, mask=mask)
        self.entries("plan", "assignment", assignment, -1, num_tokens_out, "P")
        return num_tokens_out

    def selection(self, indices: Any, mask: Any, num_tokens_in: Any) -> int:
        """What a selection is made of; returns N, which reads the data if it is not given."""
        (p,) = self.sample("plan", "indices", indices, "P", "integer")
        self.optional("plan", "mask", mask, "P", "bool", **self.batch(indices), P=p)
        if num_tokens_in is None:
            num_tokens_in = self.largest(indices) + 1
        else:
            num_tokens_in = arguments.check_integer("plan", "num_tokens_in", num_tokens_in, minimum=0)
        self.together("plan", indices=indices, mask=mask)
        self.entries("plan", "indices", indices, 0, num_tokens_in, "N")
        return num_tokens_in

    def dense(self, weights: Any, mask: Any) -> Shape:
        p, n = self.sample("plan", "weights", weights, "P N")
        self.optional("plan", "mask", mask, "P", "bool", **self.batch(weights), P=p)
        self.together("plan", weights=weights, mask=mask)
        return p, n

    # Draws of random numbers.

    def draw(self, owner: str, source: Any, /, **counts: Any) -> tuple[int, ...]:
        """What a draw takes: a source of random numbers and how many of them; returns the counts as integers."""
        arguments.check_source(owner, source, self.source)
        return tuple(arguments.check_integer(owner, name, count, minimum=0) for name, count in counts.items())
