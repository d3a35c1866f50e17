"""Plans over a batch: partition, selection, dense (docs/plan.md). Integer gathers, no Python loop.

Nothing waits for the device. Plans are PyTorch pytrees: they go in and out of `torch.compile`, `torch.export` and
`torch.vmap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from tokenmerge.backends.torch import exported, kernels, small
from tokenmerge.backends.torch.check import check
from tokenmerge.backends.torch.constants import first_rows, keeps
from tokenmerge.backends.torch.gathers import gather_or_zero, gather_rows, or_last, within
from tokenmerge.backends.torch.precision import exporting, matmul, reads_at_once, safe_divide, working_dtype
from tokenmerge.backends.torch.products import all_finite, product, without_unused
from tokenmerge.backends.torch.pytrees import register
from tokenmerge.backends.torch.segments import mean_rows, sum_rows
from tokenmerge.backends.torch.sizes import dense_sizes
from tokenmerge.spec.shared.arguments import check_composable, check_plans

Tensor = torch.Tensor
AnyPlan = TypeVar("AnyPlan", bound="Plan")


class Plan:
    """A batch of matrices `W (B,P,N)` over the token axis.

    Attributes:
        num_tokens_in: N.
        num_tokens_out: P, padded slots included.
        mask: `(B,P)` bool, False for a padded slot; None when every slot is real.
    """

    mask: Tensor | None

    @property
    def num_tokens_in(self) -> int:
        raise NotImplementedError

    @property
    def num_tokens_out(self) -> int:
        raise NotImplementedError

    def matrix(self, size: Tensor | None = None) -> Tensor:
        """`W (B,P,N)`. Only a partition depends on the sizes `(B,N)`; without them all are one."""
        raise NotImplementedError

    def share(self) -> Tensor:
        """`U (B,N,P)`, where each token's mass went: `U[n,p] = W[p,n] / sum_p' W[p',n]`; a zero column stays zero."""
        raise NotImplementedError

    def merge(self, x: Tensor, size: Tensor | None = None) -> Tensor:
        """`y = W x`: `(B,N,C)` to `(B,P,C)`, in the dtype of `x`.

        Raises:
            TypeError, ValueError: `x` or `size` has another shape or is not floating point.
        """
        raise NotImplementedError

    def merge_size(self, size: Tensor | None = None) -> Tensor:
        """`size' = U^T size`: `(B,N)` to `(B,P)`, float32 at least. What is not dropped is conserved."""
        raise NotImplementedError

    def merge_both(self, x: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`merge(x, size)` and `merge_size(size)`; a plan in which they have work in common does it once."""
        return self.merge(x, size), self.merge_size(size)

    def unmerge(self, y: Tensor) -> Tensor:
        """`x^ = U y`: `(B,P,C)` back to `(B,N,C)`, in the dtype of `y`; a dropped token comes back as zeros."""
        raise NotImplementedError

    def merge_cleared(self, x: Tensor, size: Tensor | None = None) -> Tensor:
        """`merge` of tokens whose padding is cleared, as inside a network: nothing has to be kept out of a product."""
        return self.merge(x, size)

    def unmerge_cleared(self, y: Tensor) -> Tensor:
        """`unmerge` of such tokens."""
        return self.unmerge(y)

    @property
    def _tensor(self) -> Tensor:
        """The tensor that encodes the matrix."""
        raise NotImplementedError

    @property
    def _batch(self) -> int:
        return self._tensor.shape[0]

    def _check_merge(self, x: Tensor, size: Tensor | None) -> Tensor:
        check.array("plan", "x", x, "B N C", B=self._batch, N=self.num_tokens_in)
        check.together("plan", plan=self._tensor, x=x)
        return self._sizes(size, working_dtype(x))

    def _check_unmerge(self, y: Tensor) -> None:
        check.array("plan", "y", y, "B P C", B=self._batch, P=self.num_tokens_out)
        check.together("plan", plan=self._tensor, y=y)

    def _sizes(self, size: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The sizes, or ones, no coarser than `dtype`."""
        self._check_size(size)
        return self._as_fine(size, dtype)

    def _check_size(self, size: Tensor | None) -> None:
        if size is not None:
            check.array("plan", "size", size, "B N", B=self._batch, N=self.num_tokens_in)
            check.together("plan", plan=self._tensor, size=size)

    def _as_fine(self, size: Tensor | None, dtype: torch.dtype) -> Tensor:
        """`_sizes`, of sizes that are checked."""
        if size is None:
            return self._tensor.new_ones((self._batch, self.num_tokens_in), dtype=dtype)
        return size.to(torch.promote_types(dtype, size.dtype))


@dataclass(frozen=True, eq=False)
class PartitionPlan(Plan):
    """Every token goes to one slot: `W[p,n] = size_n / (sum of the sizes in p)` if `assignment[n] = p`, else 0.

    Args:
        assignment: `(B,N)` integer, the output slot of every input token; -1 for a dropped token (padding).
        num_tokens_out: P; None for the largest slot plus one, which reads the data (no merger does).
        mask: `(B,P)` bool, False for padded slots; None when every slot is real.

    >>> plan = PartitionPlan(torch.tensor([[0, 1, 0]]))
    >>> plan.merge(torch.tensor([[[0.0], [5.0], [2.0]]])).tolist()
    [[[1.0], [5.0]]]
    """

    assignment: Tensor
    num_tokens_out: int = None  # type: ignore[assignment]  # resolved below
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        width = check.partition(self.assignment, self.num_tokens_out, self.mask)
        object.__setattr__(self, "num_tokens_out", width)

    @classmethod
    def trusted(cls, assignment: Tensor, num_tokens_out: int, mask: Tensor | None = None) -> PartitionPlan:
        """A plan that we made: nobody looks at its entries."""
        return _trusted(cls, assignment=assignment, num_tokens_out=num_tokens_out, mask=mask)

    @property
    def num_tokens_in(self) -> int:
        return self.assignment.shape[-1]

    @property
    def _tensor(self) -> Tensor:
        return self.assignment

    def _member(self) -> Tensor:
        """`(B,P,N)` bool: token n is in slot p."""
        slot = torch.arange(self.num_tokens_out, device=self.assignment.device)
        return self.assignment.long()[:, None, :] == slot[:, None]

    def share(self) -> Tensor:
        return self._member().transpose(1, 2).to(torch.get_default_dtype())

    def matrix(self, size: Tensor | None = None) -> Tensor:
        size = self._sizes(size, torch.get_default_dtype() if size is None else torch.float32)
        return torch.where(self._member(), self._weights(size)[:, None, :], 0)

    def merge(self, x: Tensor, size: Tensor | None = None) -> Tensor:
        return self.merge_both(x, size)[0]

    def merge_size(self, size: Tensor | None = None) -> Tensor:
        return self._sum_sizes(self._sizes(size, torch.float32), self._place())

    def merge_both(self, x: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`merge(x, size)` and `merge_size(size)`, which have most of the work in common."""
        self._check_merge(x, size)
        return self.merge_checked(x, size)

    def merge_checked(
        self, x: Tensor, size: Tensor | None, complete: bool = False, positive: bool = False
    ) -> tuple[Tensor, Tensor]:
        """`merge_both` of arguments that are looked at already.

        Args:
            complete: no token is dropped. positive: no size is zero.
        """
        by_kernels = kernels.usable(x)
        if complete and not by_kernels and small.takes(x, size):
            made = small.merge(x, size, self.assignment, self.num_tokens_out)
            if made is not None:
                return made
        sizes = self._as_fine(size, working_dtype(x))
        if by_kernels:
            return kernels.merge(x, sizes, self.assignment if complete else self._slot(), self.num_tokens_out)
        if exporting() and self.num_tokens_in < exported.WIDE:
            values, whole = x.to(sizes.dtype), complete and (size is None or positive)
            merged, total = exported.merge(values, sizes, self.assignment, self.num_tokens_out, whole)
            return merged.to(x.dtype), total
        (b, _, c), p = x.shape, self.num_tokens_out
        values = x.to(sizes.dtype).flatten(0, 1)
        if reads_at_once(x) and reads_at_once(sizes):
            if complete:
                merged, total = mean_rows(values, sizes.reshape(-1), self._rows().reshape(-1), b * p)
            else:
                merged, total = (each[:-1] for each in mean_rows(values, sizes.reshape(-1), self._place(), b * p + 1))
            if not all_finite(merged):  # or a slot whose sizes add up to zero
                merged = self._careful(values, sizes, total.reshape(b, p))
        else:
            total = self._sum_sizes(sizes, self._place())
            merged = self._careful(values, sizes, total)
        return merged.reshape(b, p, c).to(x.dtype), total.reshape(b, p)

    def _careful(self, values: Tensor, sizes: Tensor, total: Tensor) -> Tensor:
        """The means of rows `(B N,C)`, where a member of size 0 beside others keeps even NaN out: `(B P,C)`."""
        place = self._place()
        # a token alone in its slot has weight exactly 1 and comes through unchanged, to the last bit
        shares = self._shares(sizes, total, place).flatten()
        return sum_rows(without_unused(values, shares), shares, place, self._batch * self.num_tokens_out)

    def unmerge(self, y: Tensor) -> Tensor:
        self._check_unmerge(y)
        return gather_or_zero(y, self.assignment)

    def _weights(self, size: Tensor) -> Tensor:
        """`(B,N)`, each token's share of its slot; equal shares where the sizes add up to zero."""
        place = self._place()
        return self._shares(size, self._sum_sizes(size, place), place)

    def _shares(self, size: Tensor, total: Tensor, place: Tensor) -> Tensor:
        """`_weights`, from the sizes of the slots `(B,P)`."""
        count = self._sum_sizes(torch.ones_like(size), place)
        empty = total == 0
        whole = torch.where(empty, count, total)
        # behind the slots, where dropped tokens go: a whole that leaves them no share and no gradient
        none = (total.new_full((1,), torch.inf), empty.new_zeros(1))
        whole, empty = (
            torch.cat([each.reshape(-1), more]).index_select(0, place).reshape(size.shape)
            for each, more in zip((whole, empty), none, strict=True)
        )
        return torch.where(empty, 1, size) / whole

    def _slot(self) -> Tensor:
        """`(B,N)`, the assignment, where a slot that is not there drops a token, too."""
        return torch.where(self.assignment < self.num_tokens_out, self.assignment, -1)

    def _rows(self) -> Tensor:
        """`(B,N)`, the assignment to the slots of all samples, which stand in one row."""
        if keeps(self.assignment.device) and self._batch == 1:
            return self.assignment.long()
        return self.assignment.long() + first_rows(self._batch, self.num_tokens_out, self.assignment.device)

    def _place(self) -> Tensor:
        """`(B N,)`, the same, where dropped tokens, and those of no slot of their sample, go behind all slots."""
        slot, slots = self.assignment.long(), self.num_tokens_out
        return torch.where((slot < 0) | (slot >= slots), self._batch * slots, self._rows()).reshape(-1)

    def _sum_sizes(self, size: Tensor, place: Tensor) -> Tensor:
        """Sum of `(B,N)` over the members of every slot: `(B,P)`."""
        b, slots = self._batch, self.num_tokens_out
        if kernels.usable(size):  # which adds in the same order every time
            return kernels.merge(size[:, :, None][:, :, :0], size, self._slot(), slots)[1]
        if exporting():
            return exported.sum_sizes(size, self.assignment, slots)
        return size.new_zeros(b * slots + 1).index_add_(0, place, size.reshape(-1))[:-1].reshape(b, slots)


@dataclass(frozen=True, eq=False)
class SelectionPlan(Plan):
    """Some tokens are kept as they are: `W` has one-hot rows, and an all-zero row for a padded slot.

    Args:
        indices: `(B,P)` integer, the token in every slot, no token twice; 0 in a padded slot.
        mask: `(B,P)` bool, False for padded slots; None when every slot is real.
        num_tokens_in: N; None for the largest index plus one, which reads the data (no merger does).

    >>> plan = SelectionPlan(torch.tensor([[0, 2]]), num_tokens_in=3)
    >>> plan.unmerge(torch.tensor([[[7.0], [8.0]]])).tolist()
    [[[7.0], [0.0], [8.0]]]
    """

    indices: Tensor
    mask: Tensor | None = None
    num_tokens_in: int = None  # type: ignore[assignment]  # resolved below

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_tokens_in", check.selection(self.indices, self.mask, self.num_tokens_in))

    @classmethod
    def trusted(cls, indices: Tensor, mask: Tensor | None, num_tokens_in: int) -> SelectionPlan:
        """A plan that we made: nobody looks at its entries."""
        return _trusted(cls, indices=indices, mask=mask, num_tokens_in=num_tokens_in)

    @property
    def num_tokens_out(self) -> int:
        return self.indices.shape[-1]

    @property
    def _tensor(self) -> Tensor:
        return self.indices

    def matrix(self, size: Tensor | None = None) -> Tensor:
        self._check_size(size)
        one_hot = self.indices.long()[:, :, None] == torch.arange(self.num_tokens_in, device=self.indices.device)
        if self.mask is not None:
            one_hot = one_hot & self.mask[:, :, None]
        return one_hot.to(torch.get_default_dtype() if size is None else working_dtype(size))

    def merge(self, x: Tensor, size: Tensor | None = None) -> Tensor:
        self._check_merge(x, size)
        return self._take(x)

    def merge_size(self, size: Tensor | None = None) -> Tensor:
        sizes = self._sizes(size, torch.float32)
        if exporting():
            taken = sizes.gather(1, within(self.indices, sizes.shape[1]))
            return taken if self.mask is None else torch.where(self.mask, taken, 0)
        return self._take(sizes[:, :, None])[:, :, 0]

    def unmerge(self, y: Tensor) -> Tensor:
        self._check_unmerge(y)
        return gather_or_zero(y, slots_of(self))

    def share(self) -> Tensor:
        return self.matrix().transpose(1, 2)

    def _take(self, values: Tensor) -> Tensor:
        taken = gather_rows(values, within(self.indices, values.shape[1]))
        return taken if self.mask is None else torch.where(self.mask[:, :, None], taken, 0)


@dataclass(frozen=True, eq=False)
class DensePlan(Plan):
    """Every output token is a mixture of all input tokens: the matrix is stored as it is, and has a gradient.

    Args:
        weights: `(B,P,N)` floating point, rows sum to one; a padded slot's row is all zero.
        mask: `(B,P)` bool, False for padded slots; None when every slot is real.

    >>> DensePlan(torch.tensor([[[0.5, 0.5, 0.0]]])).share().tolist()
    [[[1.0], [1.0], [0.0]]]
    """

    weights: Tensor
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        check.dense(self.weights, self.mask)

    @classmethod
    def trusted(cls, weights: Tensor, mask: Tensor | None = None) -> DensePlan:
        """A plan that we made: nobody looks at its shapes."""
        return _trusted(cls, weights=weights, mask=mask)

    @property
    def num_tokens_in(self) -> int:
        return self.weights.shape[-1]

    @property
    def num_tokens_out(self) -> int:
        return self.weights.shape[-2]

    @property
    def _tensor(self) -> Tensor:
        return self.weights

    def matrix(self, size: Tensor | None = None) -> Tensor:
        self._check_size(size)
        return self.weights

    def merge(self, x: Tensor, size: Tensor | None = None) -> Tensor:
        self._check_merge(x, size)
        return product(self.weights, x.to(working_dtype(x))).to(x.dtype)

    def merge_both(self, x: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Both of tokens whose padding is cleared, as inside a network: nothing has to be kept out of the product."""
        return self.merge_cleared(x, size), self.merge_size(size)

    def merge_cleared(self, x: Tensor, size: Tensor | None = None) -> Tensor:
        self._check_merge(x, size)
        return matmul(self.weights, x.to(working_dtype(x))).to(x.dtype)

    def unmerge_cleared(self, y: Tensor) -> Tensor:
        self._check_unmerge(y)
        return matmul(self.share(), y.to(working_dtype(y))).to(y.dtype)

    def share(self) -> Tensor:
        w = self.weights
        return safe_divide(w, w.sum(dim=1, keepdim=True)).transpose(1, 2)

    def merge_size(self, size: Tensor | None = None) -> Tensor:
        self._check_size(size)
        return dense_sizes(self.weights, size)

    def unmerge(self, y: Tensor) -> Tensor:
        self._check_unmerge(y)
        return product(self.share(), y.to(working_dtype(y))).to(y.dtype)


def compose(first: Plan, second: Plan, size: Tensor | None = None) -> Plan:
    """The plan of two layers after one another: `W = W_2 W_1`.

    Partitions and selections compose to a partition or a selection by one gather of integers; anything dense gives a
    dense plan, which needs the sizes `(B,N)` that enter `first` (ones without them).

    Raises:
        ValueError: `second` does not take as many tokens as `first` gives.

    >>> first, second = PartitionPlan(torch.tensor([[0, 1, 1, 2]])), PartitionPlan(torch.tensor([[0, 1, 0]]))
    >>> compose(first, second).assignment.tolist()
    [[0, 1, 1, 0]]
    """
    check_plans(first, second, Plan)
    check_composable(first.num_tokens_out, second.num_tokens_in)
    first._check_size(size)
    if isinstance(first, DensePlan) or isinstance(second, DensePlan):
        # sizes as fine as the dense weights, so that a partition's matrix beside them is no coarser
        size = first._sizes(size, working_dtype(*(p.weights for p in (first, second) if isinstance(p, DensePlan))))
        return DensePlan(matmul(second.matrix(first.merge_size(size)), first.matrix(size)), second.mask)
    if isinstance(first, SelectionPlan) and isinstance(second, SelectionPlan):
        then = within(second.indices, first.num_tokens_out)
        indices = first.indices.long().gather(1, then)
        if first.mask is None and second.mask is None:
            return SelectionPlan(indices, None, first.num_tokens_in)
        mask = _real(first).gather(1, then) & _real(second)
        return SelectionPlan(torch.where(mask, indices, 0), mask, first.num_tokens_in)
    step_one, step_two = slots_of(first), slots_of(second)
    assignment = torch.cat([step_two, step_two.new_full((step_two.shape[0], 1), -1)], dim=1)
    # slot -1 of the first step finds the extra last entry of the second
    assignment = assignment.gather(1, or_last(step_one, second.num_tokens_in))
    return PartitionPlan(assignment, second.num_tokens_out, second.mask)


def compose_layers(made: Sequence[tuple[Plan, Tensor | None]]) -> Plan:
    """The plan of all layers of a network: every layer's plan and the sizes that it took, None for ones.

    What is dense is multiplied with those sizes, which a composed dense plan no longer knows.

    >>> first, second = PartitionPlan(torch.tensor([[0, 1, 1, 2]])), PartitionPlan(torch.tensor([[0, 1, 0]]))
    >>> compose_layers([(first, None), (second, first.merge_size())]).assignment.tolist()
    [[0, 1, 1, 0]]
    """
    composed = made[0][0]
    for plan, size in made[1:]:
        if isinstance(composed, DensePlan) or isinstance(plan, DensePlan):
            composed = DensePlan(matmul(plan.matrix(size), composed.matrix()), plan.mask)
        else:
            composed = compose(composed, plan)
    return composed


def _trusted(kind: type[AnyPlan], **fields: object) -> AnyPlan:
    if torch.compiler.is_compiling():  # which looks at no entries anyway, and knows the constructor
        return kind(**fields)
    plan: AnyPlan = object.__new__(kind)
    plan.__dict__.update(fields)
    return plan


def _real(plan: Plan) -> Tensor:
    if plan.mask is not None:
        return plan.mask
    return plan._tensor.new_ones((plan._batch, plan.num_tokens_out), dtype=torch.bool)


def slots_of(plan: Plan) -> Tensor:
    """A partition's assignment, or a selection's: kept tokens have a slot of their own, the others are dropped."""
    if isinstance(plan, PartitionPlan):
        return plan.assignment.long()
    assert isinstance(plan, SelectionPlan)
    n = plan.num_tokens_in
    token = torch.where(_real(plan), within(plan.indices, n), n)
    slot = torch.arange(plan.num_tokens_out, device=token.device).expand_as(token)
    return token.new_full((token.shape[0], n + 1), -1).scatter(1, token, slot)[:, :n]


register(PartitionPlan, ("assignment", "mask"), ("num_tokens_out",))
register(SelectionPlan, ("indices", "mask"), ("num_tokens_in",))
register(DensePlan, ("weights", "mask"))
