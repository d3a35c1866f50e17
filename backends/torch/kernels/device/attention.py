"""Kernels of `tokenmerge.backends.torch.kernels.attention`.

Logits are in base 2, for which a GPU has instructions: `exp x = exp2 (x log2 e)`, and `scale2 = scale log2 e`.
"""

import triton
import triton.language as tl


@triton.jit
def _place(length, BLOCK: tl.constexpr, heads):
    """Sample, head, and the positions of the block of a sequence that are this program's."""
    blocks = (length + BLOCK - 1) // BLOCK
    sequence = tl.program_id(0) // blocks
    position = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    return (sequence // heads).to(tl.int64), (sequence % heads).to(tl.int64), position


@triton.jit
def _offsets(position, stride_n, stride_d, BLOCK_D: tl.constexpr):
    channel = tl.arange(0, BLOCK_D).to(tl.int64)
    return position.to(tl.int64)[:, None] * stride_n + channel[None, :] * stride_d


@triton.jit
def _inside(position_is_inside, D: tl.constexpr, BLOCK_D: tl.constexpr):
    inside = position_is_inside[:, None]
    if D < BLOCK_D:
        inside = inside & (tl.arange(0, BLOCK_D) < D)[None, :]
    return inside


@triton.jit
def _load(pointers, position_is_inside, D: tl.constexpr, BLOCK_D: tl.constexpr, OPERAND: tl.constexpr):
    """A tile of tokens, zeros outside."""
    return tl.load(pointers, mask=_inside(position_is_inside, D, BLOCK_D), other=0.0).to(OPERAND)


@triton.jit
def _store(pointers, tile, position_is_inside, D: tl.constexpr, BLOCK_D: tl.constexpr):
    tl.store(pointers, tile.to(pointers.dtype.element_ty), mask=_inside(position_is_inside, D, BLOCK_D))


@triton.jit
def _keys(
    k_ptrs,
    v_ptrs,
    bias_ptr,
    mask_ptr,
    sample,
    column,
    n,
    LAST: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """A block of keys and values, and what is added to their logits: -inf where nothing attends, which is not read.

    Args:
        LAST: whether the block may reach beyond the keys; if not, and without a mask, nothing is compared.
    """
    at = sample * n + column
    if LAST or mask_ptr is not None or D < BLOCK_D:
        read = column < n
        if mask_ptr is not None:
            read = read & (tl.load(mask_ptr + at, mask=read, other=0) != 0)
        k, v = _load(k_ptrs, read, D, BLOCK_D, OPERAND), _load(v_ptrs, read, D, BLOCK_D, OPERAND)
        if bias_ptr is None:
            bias = tl.where(read, 0.0, float("-inf"))
        else:
            bias = tl.load(bias_ptr + at, mask=read, other=float("-inf"))
    else:
        k, v = tl.load(k_ptrs).to(OPERAND), tl.load(v_ptrs).to(OPERAND)
        if bias_ptr is None:
            bias = tl.where(column >= 0, 0.0, float("-inf"))
        else:
            bias = tl.load(bias_ptr + at)
    return k, v, bias


@triton.jit
def _attend(q, k, v, bias, scale2, top, total, out, RAISED: tl.constexpr):
    """One more block of keys; what was added up shrinks when a larger logit comes."""
    logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scale2 + bias[None, :]
    higher = tl.maximum(top, tl.max(logits, 1))
    base = tl.where(higher == float("-inf"), 0.0, higher)  # no key so far: -inf less -inf would be NaN
    p = tl.exp2(logits - base[:, None])
    shrink = tl.exp2(top - base)
    total = total * shrink + tl.sum(p, 1)
    out = tl.dot((p * RAISED).to(v.dtype), v, out * shrink[:, None], input_precision="ieee")
    return higher, total, out


@triton.jit(do_not_specialize=["m", "n"])
def attention(
    q_ptr,
    k_ptr,
    v_ptr,
    bias_ptr,
    mask_ptr,
    out_ptr,
    lse_ptr,
    m,
    n,
    heads,
    scale2,
    stride_qb,
    stride_qh,
    stride_qm,
    stride_qd,
    stride_kb,
    stride_kh,
    stride_kn,
    stride_kd,
    stride_vb,
    stride_vh,
    stride_vn,
    stride_vd,
    stride_ob,
    stride_oh,
    stride_om,
    stride_od,
    D: tl.constexpr,
    OPERAND: tl.constexpr,
    RAISED: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A block of queries against all keys, block by block."""
    sample, head, row = _place(m, BLOCK_M, heads)
    q_ptr += sample * stride_qb + head * stride_qh
    k_ptr += sample * stride_kb + head * stride_kh
    v_ptr += sample * stride_vb + head * stride_vh
    out_ptr += sample * stride_ob + head * stride_oh
    q = _load(q_ptr + _offsets(row, stride_qm, stride_qd, BLOCK_D), row < m, D, BLOCK_D, OPERAND)
    of_block = tl.arange(0, BLOCK_N)
    k_ptrs = k_ptr + _offsets(of_block, stride_kn, stride_kd, BLOCK_D)
    v_ptrs = v_ptr + _offsets(of_block, stride_vn, stride_vd, BLOCK_D)

    top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.full((BLOCK_M,), 0, tl.float32)
    out = tl.full((BLOCK_M, BLOCK_D), 0, tl.float32)
    whole = n // BLOCK_N * BLOCK_N
    for start in tl.range(0, whole, BLOCK_N, num_stages=STAGES):  # said here, the bias is loaded ahead, too
        k, v, bias = _keys(k_ptrs, v_ptrs, bias_ptr, mask_ptr, sample, start + of_block, n, False, D, BLOCK_D, OPERAND)
        top, total, out = _attend(q, k, v, bias, scale2, top, total, out, RAISED)
        k_ptrs += BLOCK_N * stride_kn
        v_ptrs += BLOCK_N * stride_vn
    if whole < n:
        k, v, bias = _keys(k_ptrs, v_ptrs, bias_ptr, mask_ptr, sample, whole + of_block, n, True, D, BLOCK_D, OPERAND)
        top, total, out = _attend(q, k, v, bias, scale2, top, total, out, RAISED)

    nothing = total == 0  # no key at all: zeros, and every weight is zero for the gradient, too
    out *= tl.where(nothing, 0.0, 1.0 / (tl.where(nothing, 1.0, total) * RAISED))[:, None]
    _store(out_ptr + _offsets(row, stride_om, stride_od, BLOCK_D), out, row < m, D, BLOCK_D)
    lse = tl.where(nothing, float("inf"), top + tl.log2(tl.where(nothing, 1.0, total)))
    tl.store(lse_ptr + (sample * heads + head) * m + row, lse, mask=row < m)


@triton.jit(do_not_specialize=["m", "n"])
def of_queries(
    q_ptr,
    k_ptr,
    v_ptr,
    bias_ptr,
    mask_ptr,
    out_ptr,
    lse_ptr,
    of_out_ptr,
    delta_ptr,
    of_q_ptr,
    m,
    n,
    heads,
    scale,
    scale2,
    stride_qb,
    stride_qh,
    stride_qm,
    stride_qd,
    stride_kb,
    stride_kh,
    stride_kn,
    stride_kd,
    stride_vb,
    stride_vh,
    stride_vn,
    stride_vd,
    stride_ob,
    stride_oh,
    stride_om,
    stride_od,
    stride_gb,
    stride_gh,
    stride_gm,
    stride_gd,
    stride_rb,
    stride_rh,
    stride_rm,
    stride_rd,
    D: tl.constexpr,
    OPERAND: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradient of a block of queries, over all keys; and `delta = sum of_out * out`, which the other kernel reads."""
    sample, head, row = _place(m, BLOCK_M, heads)
    q_ptr += sample * stride_qb + head * stride_qh
    k_ptr += sample * stride_kb + head * stride_kh
    v_ptr += sample * stride_vb + head * stride_vh
    out_ptr += sample * stride_ob + head * stride_oh
    of_out_ptr += sample * stride_gb + head * stride_gh
    of_q_ptr += sample * stride_rb + head * stride_rh
    at = (sample * heads + head) * m + row
    q = _load(q_ptr + _offsets(row, stride_qm, stride_qd, BLOCK_D), row < m, D, BLOCK_D, OPERAND)
    of_out = _load(of_out_ptr + _offsets(row, stride_gm, stride_gd, BLOCK_D), row < m, D, BLOCK_D, OPERAND)
    out = _load(out_ptr + _offsets(row, stride_om, stride_od, BLOCK_D), row < m, D, BLOCK_D, OPERAND)
    delta = tl.sum(of_out.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(delta_ptr + at, delta, mask=row < m)
    lse = tl.load(lse_ptr + at, mask=row < m, other=float("inf"))
    of_block = tl.arange(0, BLOCK_N)
    k_ptrs = k_ptr + _offsets(of_block, stride_kn, stride_kd, BLOCK_D)
    v_ptrs = v_ptr + _offsets(of_block, stride_vn, stride_vd, BLOCK_D)

    of_q = tl.full((BLOCK_M, BLOCK_D), 0, tl.float32)
    for start in range(0, n, BLOCK_N):
        k, v, bias = _keys(k_ptrs, v_ptrs, bias_ptr, mask_ptr, sample, start + of_block, n, True, D, BLOCK_D, OPERAND)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scale2 + bias[None, :]
        p = tl.exp2(logits - lse[:, None])
        of_p = tl.dot(of_out, tl.trans(v), input_precision="ieee")
        of_logits = p * (of_p - delta[:, None])
        of_q = tl.dot(of_logits.to(OPERAND), k, of_q, input_precision="ieee")
        k_ptrs += BLOCK_N * stride_kn
        v_ptrs += BLOCK_N * stride_vn
    _store(of_q_ptr + _offsets(row, stride_rm, stride_rd, BLOCK_D), of_q * scale, row < m, D, BLOCK_D)


@triton.jit(do_not_specialize=["m", "n"])
def of_keys(
    q_ptr,
    k_ptr,
    v_ptr,
    bias_ptr,
    mask_ptr,
    lse_ptr,
    of_out_ptr,
    delta_ptr,
    of_k_ptr,
    of_v_ptr,
    m,
    n,
    heads,
    scale,
    scale2,
    stride_qb,
    stride_qh,
    stride_qm,
    stride_qd,
    stride_kb,
    stride_kh,
    stride_kn,
    stride_kd,
    stride_vb,
    stride_vh,
    stride_vn,
    stride_vd,
    stride_gb,
    stride_gh,
    stride_gm,
    stride_gd,
    stride_rb,
    stride_rh,
    stride_rn,
    stride_rd,
    D: tl.constexpr,
    OPERAND: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradients of a block of keys and of its values, over all queries. Tiles of logits are `(keys, queries)` here."""
    sample, head, column = _place(n, BLOCK_N, heads)
    q_ptr += sample * stride_qb + head * stride_qh
    k_ptr += sample * stride_kb + head * stride_kh
    v_ptr += sample * stride_vb + head * stride_vh
    of_out_ptr += sample * stride_gb + head * stride_gh
    of_k_ptr += sample * stride_rb + head * stride_rh
    of_v_ptr += sample * stride_rb + head * stride_rh
    lse_ptr += (sample * heads + head) * m
    delta_ptr += (sample * heads + head) * m
    k_ptrs = k_ptr + _offsets(column, stride_kn, stride_kd, BLOCK_D)
    v_ptrs = v_ptr + _offsets(column, stride_vn, stride_vd, BLOCK_D)
    k, v, bias = _keys(k_ptrs, v_ptrs, bias_ptr, mask_ptr, sample, column, n, True, D, BLOCK_D, OPERAND)
    of_block = tl.arange(0, BLOCK_M)
    q_ptrs = q_ptr + _offsets(of_block, stride_qm, stride_qd, BLOCK_D)
    of_out_ptrs = of_out_ptr + _offsets(of_block, stride_gm, stride_gd, BLOCK_D)

    of_k = tl.full((BLOCK_N, BLOCK_D), 0, tl.float32)
    of_v = tl.full((BLOCK_N, BLOCK_D), 0, tl.float32)
    for start in range(0, m, BLOCK_M):
        row = start + of_block
        q = _load(q_ptrs, row < m, D, BLOCK_D, OPERAND)
        of_out = _load(of_out_ptrs, row < m, D, BLOCK_D, OPERAND)
        lse = tl.load(lse_ptr + row, mask=row < m, other=float("inf"))  # weights of zero
        delta = tl.load(delta_ptr + row, mask=row < m, other=0.0)
        logits = tl.dot(k, tl.trans(q), input_precision="ieee") * scale2 + bias[:, None]
        p = tl.exp2(logits - lse[None, :])
        of_v = tl.dot(p.to(OPERAND), of_out, of_v, input_precision="ieee")
        of_p = tl.dot(v, tl.trans(of_out), input_precision="ieee")
        of_logits = p * (of_p - delta[None, :])
        of_k = tl.dot(of_logits.to(OPERAND), q, of_k, input_precision="ieee")
        q_ptrs += BLOCK_M * stride_qm
        of_out_ptrs += BLOCK_M * stride_gm
    at = _offsets(column, stride_rn, stride_rd, BLOCK_D)
    _store(of_k_ptr + at, of_k * scale, column < n, D, BLOCK_D)
    _store(of_v_ptr + at, of_v, column < n, D, BLOCK_D)
