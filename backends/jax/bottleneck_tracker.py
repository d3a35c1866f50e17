"""The information bottleneck over a training: clusters, `Q`, the loss of a batch, mutual information per epoch.

Every epoch begins with a pass over the training images (`observe`), and `update` makes of it what the epoch is held
against. Arrays over a mesh are those of all devices, so all of it is that of the global batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tokenmerge.backends.jax.check import check
from tokenmerge.backends.jax.information_bottleneck import cluster_scores, estimate_q, ib_bound, mutual_information
from tokenmerge.backends.jax.precision import matmul
from tokenmerge.clusters import centroids
from tokenmerge.spec.shared import bottleneck
from tokenmerge.spec.shared.bottleneck import Measures

Array = jax.Array
OWNER = "bottleneck_tracker"


class _Batch(NamedTuple):
    """What is kept of a batch until the pass is over, in NumPy: features `(S,C)`, labels `(S,)`, `phi_in (S,B)`."""

    features: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    phi_in: np.ndarray[Any, Any]


class BottleneckTracker:
    """The loss `weight * ib_bound(phi_in, phi_out, labels, Q)` after a share of the epochs, and what it needs.

    `phi_in` are the scores of a sample's pixels against centroids that are found once; `phi_out` those of its pooled
    features against centroids that are found before every epoch; `Q` is counted with the same `phi_out`.

    Args:
        num_classes: Y >= 1.
        epochs: of the whole training.
        clusters: on both sides; None for as many as classes.
        beta: >= 0, sharpness of the scores.
        weight: >= 0, of the bound in the loss.
        start: in [0, 1], the share of the epochs that train without it.
        recipe: "aligned", or "released" for the order of the released code: from the second epoch on its `Q` counts
            the clusters of the epoch before, in their order, and k-means sees the first process's features only.
        seed: >= 0, of k-means.

    Raises:
        TypeError, ValueError: an argument of the wrong type or range.

    Source: the loss of arXiv 2407.15219 (Sec. 3.3) and of the released code (`395b959`); docs/guides/training.md.

    >>> tracker = BottleneckTracker(2, epochs=1, start=0.0)
    >>> pixels, labels = jnp.eye(2), jnp.array([0, 1])
    >>> tracker.fit_inputs(pixels)
    >>> tracker.observe(pixels, labels, pixels)
    >>> measures = tracker.update()
    >>> bool(jnp.isfinite(tracker.loss(pixels, labels, pixels))), tracker.active
    (True, True)
    """

    def __init__(
        self,
        num_classes: int,
        *,
        epochs: int,
        clusters: int | None = None,
        beta: float = 1.0,
        weight: float = 0.1,
        start: float = 0.3,
        recipe: str = "aligned",
        seed: int = 0,
    ) -> None:
        self.options = bottleneck.options(num_classes, epochs, clusters, beta, weight, start, recipe, seed)
        self.epoch = 0  # passes that are over
        self.centroids_in: Array | None = None
        self.centroids_out: Array | None = None
        self.q: Array | None = None
        self.q_next: Array | None = None  # of "released": this epoch's, for the next one
        self._pass: list[_Batch] = []

    @property
    def active(self) -> bool:
        """Whether the bound is part of the loss in this epoch."""
        return bottleneck.active(self.options, self.epoch)

    def fit_inputs(self, inputs: Array) -> None:
        """Find the centroids of the inputs `(S,D)`; once, before the first epoch.

        Raises:
            ValueError: there are none, or one is not finite.
        """
        check.array(OWNER, "inputs", inputs, "S D")
        self.centroids_in = self._centroids(_on_host(inputs))

    def observe(self, features: Array, labels: Array, inputs: Array) -> None:
        """Keep a batch of the pass before an epoch: pooled features `(S,C)`, labels `(S,)`, pixels `(S,D)`."""
        self._check(features, labels, inputs)
        assert self.centroids_in is not None
        phi_in = _input_scores(inputs, self.centroids_in, self.options.beta)
        batch = _Batch(_on_host(features).astype(np.float32), _on_host(labels), _on_host(phi_in))
        self._pass.append(batch)

    def update(self) -> Measures:
        """End the pass: new centroids, `Q` counted with them, and what the pass says.

        Returns:
            `Measures`: I(in;out), I(out;label), their difference, and the bound, in nats.

        Raises:
            ValueError: nothing was observed, or a feature is not finite.
        """
        if not self._pass:
            raise ValueError(f"{OWNER}: `update` must follow a pass of `observe`, got none")
        features, labels, phi_in = (np.concatenate(part) for part in zip(*self._pass, strict=True))
        self._pass = []
        self.centroids_out = self._centroids(features)
        phi_out = cluster_scores(jnp.asarray(features), self.centroids_out, self.options.beta)
        own = estimate_q(phi_out, jnp.asarray(labels), self.options.num_classes)
        self.q = own if self.q_next is None or self.options.recipe == "aligned" else self.q_next
        self.q_next = own if self.options.recipe == "released" else None
        self.epoch += 1
        bound = ib_bound(jnp.asarray(phi_in), phi_out, jnp.asarray(labels), self.q)
        counts = jnp.bincount(jnp.asarray(labels), length=self.options.num_classes)
        kept = mutual_information(matmul(phi_out.T, jnp.asarray(phi_in)) / len(labels))
        told = mutual_information(own * counts / len(labels))
        return Measures(float(kept), float(told), float(kept - told), float(bound))

    @property
    def arrays(self) -> dict[str, Array]:
        """What the loss of this epoch is made from, to be handed through `jax.jit` as an argument.

        Raises:
            RuntimeError: there was no `update` yet.
        """
        if self.centroids_in is None or self.centroids_out is None or self.q is None:
            raise RuntimeError(f"{OWNER}: `arrays` must follow an `update`, got none")
        weight = jnp.asarray(self.options.weight if self.active else 0.0, jnp.float32)
        return {"centroids_in": self.centroids_in, "centroids_out": self.centroids_out, "q": self.q, "weight": weight}

    def bound(self, features: Array, labels: Array, inputs: Array, arrays: dict[str, Array] | None = None) -> Array:
        """The bound of a batch, a mean over its samples, with its gradient for the features.

        Args:
            features: `(S,C)`; labels: `(S,)`; inputs: `(S,D)`; arrays: of this epoch, where the call is compiled: what
                is read from the tracker would be a constant.
        """
        self._check(features, labels, inputs)
        held = self.arrays if arrays is None else arrays
        phi_in = jax.lax.stop_gradient(_input_scores(inputs, held["centroids_in"], self.options.beta))
        return ib_bound(phi_in, cluster_scores(features, held["centroids_out"], self.options.beta), labels, held["q"])

    def loss(self, features: Array, labels: Array, inputs: Array, arrays: dict[str, Array] | None = None) -> Array:
        """`weight * bound`, and 0 in the epochs without it. The arguments are those of `bound`."""
        held = self.arrays if arrays is None else arrays
        return held["weight"] * self.bound(features, labels, inputs, held)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training needs; between a pass's `observe`s it cannot be asked for.

        Raises:
            RuntimeError: a pass is not over.
        """
        if self._pass:
            raise RuntimeError(f"{OWNER}: `state_dict` must be asked for between passes, got one within a pass")
        return {"epoch": self.epoch, **{name: getattr(self, name) for name in bottleneck.ARRAYS}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another tracker of the same options was.

        Raises:
            TypeError, ValueError: the state is that of a tracker of other options.
        """
        bottleneck.check_state(self.options, state)
        self.epoch, self._pass = int(state["epoch"]), []
        for name in bottleneck.ARRAYS:
            value = state[name]
            setattr(self, name, None if value is None else jnp.asarray(np.asarray(value)))

    def _check(self, features: Array, labels: Array, inputs: Array) -> None:
        s, _ = check.array(OWNER, "features", features, "S C")
        check.array(OWNER, "labels", labels, "S", "integer", S=s)
        check.array(OWNER, "inputs", inputs, "S D", S=s)
        check.entries(OWNER, "labels", labels, 0, self.options.num_classes, "Y")
        if self.centroids_in is None:
            raise RuntimeError(f"{OWNER}: `fit_inputs` must be called before a batch is looked at, got none")

    def _centroids(self, vectors: np.ndarray[Any, Any]) -> Array:
        """Those that the first process finds, in every process."""
        seen = vectors
        if self.options.recipe == "released" and jax.process_count() > 1:
            seen = vectors[: len(vectors) // jax.process_count()]
        found = centroids(seen, self.options.clusters, self.options.seed + self.epoch)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            found = multihost_utils.broadcast_one_to_all(found)
        return jnp.asarray(found)


def _input_scores(inputs: Array, centres: Array, beta: float) -> Array:
    rows = bottleneck.rows_at_a_time(tuple(centres.shape))
    parts = [inputs[first : first + rows] for first in range(0, max(1, inputs.shape[0]), rows)]
    return jnp.concatenate([cluster_scores(part, centres, beta) for part in parts])


def _on_host(array: Array) -> np.ndarray[Any, Any]:
    """All of an array, also of one whose parts lie with other processes."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)
