"""The information bottleneck over a training: clusters, `Q`, the loss of a batch, mutual information per epoch.

Every epoch begins with a pass over the training images (`observe`), and `update` makes of it what the epoch is held
against. With `torch.distributed` at work all of it is that of the samples of all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import distributed

from tokenmerge.backends.torch.check import check
from tokenmerge.backends.torch.information_bottleneck import cluster_scores, estimate_q, ib_bound, mutual_information
from tokenmerge.backends.torch.precision import matmul, working_dtype
from tokenmerge.clusters import centroids
from tokenmerge.spec.shared import bottleneck
from tokenmerge.spec.shared.bottleneck import Measures

Tensor = torch.Tensor
OWNER = "bottleneck_tracker"


class _Batch(NamedTuple):
    """What is kept of a batch until the pass is over, on the CPU: features `(S,C)`, labels `(S,)`, `phi_in (S,B)`."""

    features: Tensor
    labels: Tensor
    phi_in: Tensor


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
    >>> pixels, labels = torch.eye(2), torch.tensor([0, 1])
    >>> tracker.fit_inputs(pixels)
    >>> tracker.observe(pixels, labels, pixels)
    >>> measures = tracker.update()
    >>> bool(tracker.loss(pixels, labels, pixels).isfinite()), tracker.active
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
        self.centroids_in: Tensor | None = None
        self.centroids_out: Tensor | None = None
        self.q: Tensor | None = None
        self.q_next: Tensor | None = None  # of "released": this epoch's, for the next one
        self._pass: list[_Batch] = []

    @property
    def active(self) -> bool:
        """Whether the bound is part of the loss in this epoch."""
        return bottleneck.active(self.options, self.epoch)

    def fit_inputs(self, inputs: Tensor) -> None:
        """Find the centroids of the inputs `(S,D)`, of this rank's samples; once, before the first epoch.

        Raises:
            ValueError: there are none, or one is not finite.
        """
        check.array(OWNER, "inputs", inputs, "S D")
        vectors = _rows_of_all(inputs.detach().float().cpu())
        self.centroids_in = self._centroids(vectors, inputs.shape[1])

    @torch.no_grad()
    def observe(self, features: Tensor, labels: Tensor, inputs: Tensor) -> None:
        """Keep a batch of the pass before an epoch: pooled features `(S,C)`, labels `(S,)`, pixels `(S,D)`."""
        self._check(features, labels, inputs)
        phi_in = self._phi_in(inputs)
        kept = features.to(working_dtype(features)).cpu()
        self._pass.append(_Batch(kept, labels.long().cpu(), phi_in.to(kept.dtype).cpu()))

    @torch.no_grad()
    def update(self) -> Measures:
        """End the pass: new centroids, `Q` counted with them, and what the pass says, over all ranks.

        Returns:
            `Measures`: I(in;out), I(out;label), their difference, and the bound, in nats.

        Raises:
            ValueError: nothing was observed, or a feature is not finite.
        """
        if not self._pass:
            raise ValueError(f"{OWNER}: `update` must follow a pass of `observe`, got none")
        features, labels, phi_in = (torch.cat(part) for part in zip(*self._pass, strict=True))
        self._pass = []
        seen = features if self.options.recipe == "released" else _rows_of_all(features)
        self.centroids_out = self._centroids(seen, features.shape[1])
        phi_out = cluster_scores(features, self.centroids_out, self.options.beta)
        classes = self.options.num_classes
        counts = torch.bincount(labels, minlength=classes).to(phi_out.dtype)
        sums = estimate_q(phi_out, labels, classes) * counts
        joint = matmul(phi_out.T, phi_in)
        sums, counts, joint = (_sum_over_ranks(each) for each in (sums, counts, joint))
        own = sums / counts.clamp(min=1)
        self.q = own if self.q_next is None or self.options.recipe == "aligned" else self.q_next
        self.q_next = own if self.options.recipe == "released" else None
        self.epoch += 1
        bound = _sum_over_ranks(ib_bound(phi_in, phi_out, labels, self.q) * len(labels)) / counts.sum()
        kept = mutual_information(joint / counts.sum())
        told = mutual_information(sums / counts.sum())
        return Measures(float(kept), float(told), float(kept - told), float(bound))

    def bound(self, features: Tensor, labels: Tensor, inputs: Tensor) -> Tensor:
        """The bound of a batch, a mean over its samples, with its gradient for the features.

        A mean over ranks with equal batches, as DDP takes of gradients, is that of the global batch.

        Raises:
            RuntimeError: there was no `update` yet.
        """
        self._check(features, labels, inputs)
        if self.centroids_out is None or self.q is None:
            raise RuntimeError(f"{OWNER}: `bound` must follow an `update`, got none")
        with torch.no_grad():
            phi_in = self._phi_in(inputs)
        phi_out = cluster_scores(features, self.centroids_out.to(features.device), self.options.beta)
        return ib_bound(phi_in, phi_out, labels, self.q.to(features.device))

    def loss(self, features: Tensor, labels: Tensor, inputs: Tensor) -> Tensor:
        """`weight * bound`; a plain 0 in the epochs without it."""
        if not self.active:
            return torch.zeros((), device=features.device)
        return self.options.weight * self.bound(features, labels, inputs)

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
            setattr(self, name, None if value is None else torch.as_tensor(value).detach().clone())

    def _check(self, features: Tensor, labels: Tensor, inputs: Tensor) -> None:
        s, _ = check.array(OWNER, "features", features, "S C")
        check.array(OWNER, "labels", labels, "S", "integer", S=s)
        check.array(OWNER, "inputs", inputs, "S D", S=s)
        check.entries(OWNER, "labels", labels, 0, self.options.num_classes, "Y")
        if self.centroids_in is None:
            raise RuntimeError(f"{OWNER}: `fit_inputs` must be called before a batch is looked at, got none")

    def _phi_in(self, inputs: Tensor) -> Tensor:
        assert self.centroids_in is not None
        centres = self.centroids_in.to(inputs.device)
        rows = bottleneck.rows_at_a_time(tuple(centres.shape))
        return torch.cat([cluster_scores(part, centres, self.options.beta) for part in inputs.split(rows)])

    def _centroids(self, vectors: Tensor, width: int) -> Tensor:
        """Those that the first rank finds, on every rank: machines may differ in the last bit."""
        seed = self.options.seed + self.epoch
        found = torch.zeros(self.options.clusters, width)
        trouble: list[Any] = [None]
        if _rank() == 0:
            try:
                found = torch.from_numpy(centroids(vectors.numpy(), self.options.clusters, seed))
            except (ValueError, ImportError) as error:  # which all ranks have to raise, or the others wait for ever
                trouble = [error]
        if _world() > 1:
            distributed.broadcast_object_list(trouble, src=0)
        if trouble[0] is not None:
            raise trouble[0]
        if _world() > 1:
            placed = found.to(_device())
            distributed.broadcast(placed, src=0)
            found = placed.cpu()
        return found


def _world() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _rank() -> int:
    return distributed.get_rank() if _world() > 1 else 0


def _device() -> torch.device:
    """Where the process group takes tensors."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")


def _sum_over_ranks(tensor: Tensor) -> Tensor:
    if _world() == 1:
        return tensor
    total = tensor.to(_device(), copy=True)
    distributed.all_reduce(total)
    return total.cpu()


def _rows_of_all(rows: Tensor) -> Tensor:
    """The rows of all ranks on every rank, dealt back in turn: samples `rank::world` come out in their own order."""
    world = _world()
    if world == 1:
        return rows
    lengths = [torch.zeros(1, dtype=torch.long, device=_device()) for _ in range(world)]
    distributed.all_gather(lengths, torch.tensor([len(rows)], device=_device()))
    longest = max(int(length) for length in lengths)
    padded = torch.zeros(longest, *rows.shape[1:], dtype=rows.dtype, device=_device())
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world)]
    distributed.all_gather(parts, padded)
    dealt = torch.stack(parts, dim=1).flatten(0, 1).cpu()
    real = np.arange(longest)[:, None] < np.array([int(length) for length in lengths])
    return dealt[torch.from_numpy(real).flatten()]
