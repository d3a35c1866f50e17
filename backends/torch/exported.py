"""What an exported program does in place of PyTorch's fast ways: few operators, and only such as every runtime has.

No sort (few runtimes have a stable one), no sum into places that occur twice, no float64; shapes are known but for the
batch. Ties are resolved by comparing positions, so that no runtime's own choice among equals matters.
"""

from __future__ import annotations

import torch

from tokenmerge.backends.torch.precision import matmul, without_autocast, working_dtype

Tensor = torch.Tensor

WIDE = 2**11  # tokens from which on a product with the whole matrix of a plan is no longer little work


def normalize(m: Tensor) -> Tensor:
    """`m / ||m||` per row of `(B,N,D)`; zero where there is no direction, or a NaN or an infinity.

    >>> normalize(torch.tensor([[[3.0, 4.0], [0.0, 0.0], [torch.inf, 0.0]]])).tolist()[0]
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0], [0.0, 0.0]]
    """
    scaled = m / m.abs().amax(dim=-1, keepdim=True)  # whose squares stay in range
    unit = scaled / torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return torch.where(unit.isnan(), 0, unit)  # nothing else makes a NaN than a vector without a direction


def ranks(values: Tensor) -> Tensor:
    """How many entries of `(B,N)` come before each one, the largest first and equal ones by position.

    >>> ranks(torch.tensor([[0.0, 2.0, -0.0, 2.0]]))
    tensor([[2, 0, 3, 1]])
    """
    return _ranks(values[:, :, None])


def _ranks(values: Tensor) -> Tensor:
    """`ranks` of a column `(B,N,1)`."""
    position = torch.arange(values.shape[1], device=values.device)
    others = values.transpose(1, 2)
    return ((others > values) | ((others == values) & (position < position[:, None]))).sum(dim=-1)


def order_of(rank: Tensor) -> Tensor:
    """The permutation whose inverse is `rank (B,N)`.

    >>> order_of(torch.tensor([[2, 0, 1]]))
    tensor([[1, 2, 0]])
    """
    return (-rank).float().topk(rank.shape[-1], dim=-1).indices  # no two are equal


def true_first(flags: Tensor) -> Tensor:
    """The permutation that brings the True ones of `(B,N)` to the front and changes no order otherwise.

    >>> true_first(torch.tensor([[False, True, False, True]]))
    tensor([[1, 3, 0, 2]])
    """
    n = flags.shape[-1]
    later = torch.arange(n, 0, -1, dtype=torch.float32, device=flags.device)
    return torch.where(flags, later + n, later).topk(n, dim=-1).indices


def class_row(query: Tensor, key: Tensor, mask: Tensor | None, size: Tensor | None = None) -> Tensor:
    """The first query's attention `(B,H,N)`; what a mask leaves out has numbers that mean nothing.

    Args:
        query, key: `(B,H,N,d)`, in working precision. mask: `(B,N)` or None.
        size: `(B,N)` in working precision, or None for ones.

    >>> key = torch.tensor([[[[0.0], [1.0], [0.0]]]])
    >>> class_row(0 * key, key, torch.tensor([[True, True, False]])).tolist()
    [[[0.5, 0.5, 0.0]]]
    """
    # a sum of products, for which keys lie right; a product of matrices wants them the other way round
    logits = (query[:, :, :1] * query.shape[3] ** -0.5 * key).sum(dim=-1)
    lowest = torch.finfo(logits.dtype).min  # and no infinity: a row of nothing else is no NaN
    if size is not None:
        logits = logits + torch.log(size)[:, None].clamp(min=lowest)
    if mask is not None:
        logits = torch.where(mask[:, None], logits, lowest)
    return torch.softmax(logits, dim=-1)


def attention(
    query: Tensor, key: Tensor, value: Tensor, size: Tensor | None, mask: Tensor | None, dropout: float
) -> Tensor:
    """`attention` inside of a network, where padding is finite and in every sample some key is real: `(B,H,M,d)`.

    Args:
        query: `(B,H,M,d)`; key, value: `(B,H,N,d)`, all in one dtype.
        size: `(B,N)`, 0 for padding, or None for ones. mask: `(B,N)`, looked at where there are no sizes, or None.
        dropout: of weights.

    >>> q, k, v = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 2, 1), torch.tensor([[[[0.0], [3.0]]]])
    >>> attention(q, k, v, None, torch.tensor([[True, False]]), 0.0).tolist()
    [[[[0.0]]]]
    """
    bias, dtype = None, query.dtype
    if size is not None:  # in half precision, logarithms would be rounded
        query, key, value = (each.to(working_dtype(each)) for each in (query, key, value))
        bias = torch.log(size.to(query.dtype))[:, None, None, :]
    elif mask is not None:
        bias = torch.where(mask[:, None, None, :], 0, -torch.inf).to(dtype)
    with without_autocast(query):
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, bias, dropout).to(dtype)


def nearest(
    significance: Tensor, mask: Tensor | None, points: Tensor, slots: int, front: int = 1
) -> tuple[Tensor, Tensor]:
    """Indices and mask `(B,slots)` of the tokens in front and of those whose cumulated share is nearest to a point.

    Args:
        significance: `(B,N)`, of which those in front do not count. mask: `(B,N)` or None.
        points: `(B,K)` or `(1,K)`.
        front: the class token, which may be masked, and those behind it, which are kept in any case.

    >>> significance, points = torch.tensor([[9.0, 0.5, 0.0, 0.5]]), torch.tensor([[0.25, 0.875]])
    >>> nearest(significance, None, points, 4)  # the shares add up to 0.5, 0.5 and 1
    (tensor([[0, 1, 3, 0]]), tensor([[ True,  True,  True, False]]))
    """
    n = significance.shape[1]
    position = torch.arange(n, dtype=significance.dtype, device=significance.device)
    behind = position >= front
    others = behind[None] if mask is None else mask & behind
    significance = torch.where(others, significance, 0)
    total = significance.sum(dim=1, keepdim=True)
    significance = torch.where(total == 0, others.to(significance.dtype), significance)
    cdf = torch.cumsum(significance / significance.sum(dim=1, keepdim=True), dim=1)
    # no point comes near to what cannot be chosen; where that is everything, to the class token, which is there anyway
    cdf = torch.where(significance > 0, cdf, torch.where(behind, torch.inf, 4.0))
    distance = (cdf[:, None, :] - points[:, :, None]).abs()
    token = torch.where(distance > distance.amin(dim=-1, keepdim=True), n, position).amin(dim=-1, keepdim=True)
    order = n - position + torch.where(behind, 0, 3.0 * n)  # the chosen get 2N more; those in front are the first
    found = torch.where(token == position, order + 2 * n, order).amax(dim=1).topk(slots, dim=-1)
    filled = found.values > n
    indices = torch.where(filled, found.indices, 0)
    if mask is None:
        return indices, filled
    real = mask if front == 1 else mask | (~behind & (position > 0))
    return indices, filled & real.gather(1, indices)


def member(assignment: Tensor, slots: int) -> Tensor:
    """`(B,P,N)` bool: token n of `assignment (B,N)` is in slot p."""
    return assignment[:, None, :] == torch.arange(slots, device=assignment.device)[:, None]


def sum_sizes(size: Tensor, assignment: Tensor, slots: int) -> Tensor:
    """Sum of `(B,N)` over the members of every slot: `(B,P)`."""
    return torch.where(member(assignment, slots), size[:, None, :], 0).sum(dim=-1)


def merge(values: Tensor, size: Tensor, assignment: Tensor, slots: int, whole: bool) -> tuple[Tensor, Tensor]:
    """`W x` `(B,P,C)` and the sizes of the slots `(B,P)`, by the matrix of a partition.

    Args:
        values: `(B,N,C)`; size: `(B,N)`, both in working precision.
        whole: no token is dropped, no size is zero and no slot is empty.

    >>> x, size = torch.tensor([[[1.0], [4.0], [5.0]]]), torch.tensor([[2.0, 1.0, 1.0]])
    >>> [each.tolist() for each in merge(x, size, torch.tensor([[0, 0, 1]]), 2, True)]
    [[[[2.0], [5.0]]], [[3.0, 1.0]]]
    """
    within = member(assignment, slots)
    weights = torch.where(within, size[:, None, :], 0)
    total = sums = weights.sum(dim=-1, keepdim=True)
    if not whole:
        values = torch.where((assignment >= 0)[:, :, None], values, 0)
        # where sizes add up to zero, tokens count alike; a slot without any gets zeros
        weights = torch.where(total == 0, within.to(size.dtype), weights)
        sums = weights.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)
    return matmul(weights / sums, values), total[:, :, 0]


def bipartite(
    m: Tensor, removable: int, sets: tuple[slice, slice], protected: int, order: str, count: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Slots `(B,N)` of bipartite matching and how many of them are used, see `tome._bipartite`.

    Args:
        m: `(B,N,D)`, normalized. removable: the most tokens that are removed.
        sets: both sets, as slices of the tokens.
        count: `(B,1)`, real tokens, which come first; None where all are.
    """
    position = torch.arange(m.shape[1], device=m.device)
    first, second = (position[each] for each in sets)
    number = torch.arange(second.shape[0], device=m.device)[None]
    similarity = matmul(m[:, sets[0]], m[:, sets[1]].transpose(1, 2))
    removed: int | Tensor = removable
    mergeable = None
    if count is not None:
        removed = ((count - protected) // 2).clamp(0, removable)
        mergeable = first < count
        similarity = torch.where((second < count)[:, None, :], similarity, -torch.inf)
    best = similarity.amax(dim=-1, keepdim=True)
    target = torch.where(similarity < best, number.shape[1], number).amin(dim=-1)
    rank = _ranks(best if mergeable is None else torch.where(mergeable[:, :, None], best, -torch.inf))
    merges = rank < removed
    leaves = merges if mergeable is None else merges | ~mergeable
    # tokens of the first set that stay and come before this one
    before = torch.arange(first.shape[0], device=m.device) - torch.cumsum(leaves, dim=1)
    if order == "positional":
        own = before + (protected + (second < first[:, None]).sum(dim=1))
        front = torch.nn.functional.pad(before + 1, (1, 0))  # of those of the first set that come before the first few
        others = number + protected + front.index_select(1, (first < second[:, None]).sum(dim=1))
        into = others.gather(1, target)
    else:
        in_front = first.shape[0] - removed if mergeable is None else (~leaves).sum(dim=1, keepdim=True)
        own = (rank - removed if order == "score" else before) + protected
        others = number + (protected + in_front)
        into = target + (protected + in_front)
    slots = _interleaved(torch.where(merges, into, own), others, sets, position)
    if count is None:
        return slots, None
    return torch.where(count < protected + 2, position, slots), count - removed


def _interleaved(a: Tensor, b: Tensor, sets: tuple[slice, slice], position: Tensor) -> Tensor:
    """What belongs to the tokens of both sets, in the order of the tokens; the others have their own position."""
    made = position[None]
    for part, values in zip(reversed(sets), (b, a), strict=True):
        inside, index = torch.zeros_like(position, dtype=torch.bool), torch.zeros_like(position)
        inside[part], index[part] = True, torch.arange(values.shape[1], device=position.device)
        made = torch.where(inside, values.index_select(1, index), made)
    return made
