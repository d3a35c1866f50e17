"""The information bottleneck that trains LTM, vectorized (docs/ltm.md).

The semantics are those of `tokenmerge.spec.information_bottleneck`; `mask_scores` and `ib_gradient` take a batch.
Everything has a gradient; `ib_gradient` is the closed form of one.
"""

from __future__ import annotations

import torch

from tokenmerge.backends.torch.check import check
from tokenmerge.backends.torch.gathers import within
from tokenmerge.backends.torch.precision import matmul, safe_divide, softmax, working_dtype
from tokenmerge.spec.shared.constants import LOG_FLOOR

Tensor = torch.Tensor


def cluster_scores(f: Tensor, centroids: Tensor, beta: float) -> Tensor:
    """`softmax_a(-beta ||f / ||f|| - c_a||^2)`.

    Args:
        f: `(S,C)` floating point; centroids: `(A,C)`; beta: >= 0.

    Returns:
        `(S,A)`, rows sum to 1.

    >>> cluster_scores(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), 5.0)
    tensor([[0.5000, 0.5000]])
    """
    check.cluster_scores(f, centroids, beta)
    f = f.to(working_dtype(f))
    # `vector_norm` has gradient 0 at a zero vector, where the gradient of a square root is infinite
    unit = safe_divide(f, torch.linalg.vector_norm(f, dim=1, keepdim=True))
    return softmax(-beta * (unit[:, None, :] - centroids.to(f.dtype)).square().sum(dim=2))


def estimate_q(phi_out: Tensor, labels: Tensor, num_classes: int | None = None) -> Tensor:
    """`Q[a,y] = sum_i phi_out[i,a] 1[y_i = y] / sum_i 1[y_i = y]`; a class without samples gives a zero column.

    Args:
        phi_out: `(S,A)` floating point; labels: `(S,)` integer; num_classes: Y, None for the largest label plus one
            (which reads the data).

    >>> estimate_q(torch.tensor([[0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
    tensor([[0.5000, 0.0000],
            [0.5000, 1.0000]])
    """
    classes = torch.arange(check.estimate_q(phi_out, labels, num_classes), device=labels.device)
    one_hot = (labels.long()[:, None] == classes).to(working_dtype(phi_out))
    return safe_divide(matmul(phi_out.T.to(one_hot.dtype), one_hot), one_hot.sum(dim=0))


def ib_bound(phi_in: Tensor, phi_out: Tensor, labels: Tensor, q: Tensor) -> Tensor:
    """The mean over samples of `sum_{a,b} phi_out[a] phi_in[b] log phi_in[b] - sum_a phi_out[a] log Q[a,y]`.

    Args:
        phi_in: `(S,B)` floating point; phi_out: `(S,A)`; labels: `(S,)` integer in [0, Y); q: `(A,Y)`.

    Returns:
        A finite scalar (0 for S = 0).

    >>> phi = torch.tensor([[1.0, 0.0]])
    >>> ib_bound(phi, phi, torch.tensor([0]), torch.tensor([[0.5], [0.5]]))
    tensor(0.6931)
    """
    s = check.ib_bound(phi_in, phi_out, labels, q)
    work = working_dtype(phi_in)
    into, out = phi_in.to(work), phi_out.to(work)
    kept = out.sum(dim=1) * (into * _log(into)).sum(dim=1)
    explained = (out * _log(q.to(work)).T[within(labels, q.shape[1])]).sum(dim=1)
    return (kept - explained).sum() / max(s, 1)


def mutual_information(p_ab: Tensor) -> Tensor:
    """`sum_{a,b} p[a,b] log(p[a,b] / (p[a] p[b]))` in nats, from a joint table `(A,B)` that sums to one.

    >>> mutual_information(torch.tensor([[0.5, 0.0], [0.0, 0.5]]))
    tensor(0.6931)
    """
    check.mutual_information(p_ab)
    p = p_ab.to(working_dtype(p_ab))
    return (p * (_log(p) - _log(p.sum(dim=1, keepdim=True)) - _log(p.sum(dim=0, keepdim=True)))).sum()


def mask_scores(z: Tensor, mask: Tensor, centroids: Tensor) -> Tensor:
    """`phi_a = softmax_a(-||G^T Z - C_a||^2)`.

    Args:
        z: `(B,n,C)` floating point; mask: `(B,n,P')`; centroids: `(A,P',C)`.

    Returns:
        `(B,A)`, rows sum to 1.

    >>> mask_scores(torch.eye(2)[None], torch.eye(2)[None], torch.zeros(4, 2, 2))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    check.mask_scores(z, mask, centroids)
    work = working_dtype(z)
    merged = matmul(mask.transpose(1, 2).to(work), z.to(work))
    return softmax(-(merged[:, None] - centroids.to(work)).square().sum(dim=(2, 3)))


def ib_gradient(z: Tensor, mask: Tensor, centroids: Tensor, q: Tensor, labels: Tensor) -> Tensor:
    """`-2 Z (sum_a phi_a (log Q[a,y] - sum_b phi_b log Q[b,y]) C_a)^T`, the gradient of each sample's own bound.

    Args:
        z: `(B,n,C)` floating point; mask: `(B,n,P')`; centroids: `(A,P',C)`; q: `(A,Y)`; labels: `(B,)` integer.

    Returns:
        `(B,n,P')`.

    >>> z, mask = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[0.5], [0.5]]])
    >>> centroids, q = torch.tensor([[[0.0]], [[3.0]]]), torch.tensor([[0.5], [0.25]])
    >>> ib_gradient(z, mask, centroids, q, torch.tensor([0]))
    tensor([[[1.0397],
             [2.0794]]])
    """
    check.ib_gradient(z, mask, centroids, q, labels)
    phi = mask_scores(z, mask, centroids)
    log_q = _log(q.to(phi.dtype)).T[within(labels, q.shape[1])]
    surprise = phi * (log_q - (phi * log_q).sum(dim=1, keepdim=True))
    a, p, c = centroids.shape
    pulled = matmul(surprise, centroids.to(phi.dtype).reshape(a, p * c)).reshape(-1, p, c)
    return -2 * matmul(z.to(phi.dtype), pulled.transpose(1, 2))


def _log(v: Tensor) -> Tensor:
    return torch.log(v.clamp(min=LOG_FLOOR))
