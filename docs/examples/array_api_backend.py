"""A complete backend on the Python array API standard, for any library that has it; docs/backends.md walks through it.

Arithmetic is done in arrays and decisions in plain Python: slow, and short enough to be read in one go.
"""

from dataclasses import dataclass

import numpy as np
import numpy as xp  # or array_api_strict, array_api_compat.torch, ...: nothing below knows which one it is

from tokenmerge.spec.shared import arguments, calls, initial, merged, schedule

check = calls.Calls(type(xp.asarray(0.0)))
NAME, VERSION = "array_api", f"{xp.__array_api_version__} in {xp.__name__}"
DTYPES = ("float32", "float64")  # the standard has no others
to_numpy = np.from_dlpack


def devices():
    return ("cpu",)


def from_numpy(array, dtype=None, device=None):
    return xp.asarray(array, dtype=None if dtype is None else getattr(xp, dtype), copy=True)


def integers(rows, *shape):  # the shape, because no rows do not tell it
    return xp.reshape(xp.asarray(rows, dtype=xp.int64), shape)


def real_tokens(mask):  # the positions in every sample that are not padding
    return [[position for position, real in enumerate(row) if real] for row in to_numpy(mask).tolist()]


def divide(a, b):  # 0 where b is 0
    return xp.where(b == 0, 0.0, a / xp.where(b == 0, 1.0, b))


def softmax(logits):  # of every row; zeros where all is -inf
    most = xp.max(logits, axis=-1, keepdims=True) if logits.shape[-1] else xp.sum(logits, axis=-1, keepdims=True)
    exponential = xp.exp(logits - xp.where(most == -xp.inf, 0.0, most))
    return divide(exponential, xp.sum(exponential, axis=-1, keepdims=True))


def product(matrix, vectors):  # a weight of 0 keeps out even NaN: padding may hold anything
    used = xp.where(matrix[..., None] == 0, 0.0, vectors[:, None, :, :])
    return xp.astype(xp.sum(matrix[..., None] * used, axis=2), vectors.dtype)


@dataclass(frozen=True, eq=False)
class Plan:
    """A batch of matrices `W (B,P,N)`, and the laws of docs/plan.md as they stand there."""

    array: object
    num_tokens_in: int
    num_tokens_out: int
    mask: object = None

    def matrix(self, size=None):
        member = self.member()
        size = xp.astype(member, xp.float64) if size is None else xp.where(member, size[:, None, :], 0.0)
        size = xp.where(member & (xp.sum(size, axis=2, keepdims=True) == 0), 1.0, size)  # all zero: the plain mean
        return divide(size, xp.sum(size, axis=2, keepdims=True))

    def share(self):
        w = self.matrix()
        return xp.matrix_transpose(divide(w, xp.sum(w, axis=1, keepdims=True)))

    def merge(self, x, size=None):
        return product(self.matrix(size), x)

    def merge_size(self, size=None):
        share = xp.matrix_transpose(self.share())
        size = xp.ones(share.shape[::2], dtype=share.dtype) if size is None else size
        return product(share, size[:, :, None])[:, :, 0]

    def unmerge(self, y):
        return product(self.share(), y)


class Partition(Plan):
    assignment = property(lambda plan: plan.array)

    def member(self):  # which tokens are in which slot
        return self.assignment[:, None, :] == xp.arange(self.num_tokens_out)[:, None]


class Selection(Plan):
    indices = property(lambda plan: plan.array)

    def member(self):
        return (self.indices[:, :, None] == xp.arange(self.num_tokens_in)) & self.mask[:, :, None]


class Dense(Plan):
    weights = property(lambda plan: plan.array)

    def matrix(self, size=None):
        return self.weights


class Merger:
    def params(self):
        return {name: value.copy() for name, value in self.learned.items()}

    def load_params(self, params):
        arguments.check_params(self.NAME, params, {name: value.shape for name, value in self.learned.items()})
        self.learned = {name: np.array(params[name]) for name in self.learned}

    def merge(self, plan, x, size):
        size = xp.ones(x.shape[:2], dtype=x.dtype) if size is None else size
        return merged.Merged(plan.merge(x, size), plan.merge_size(size), plan.mask, plan)


class ToMe(Merger):
    NAME = "tome"

    def __init__(self, r=None, protected=0, order="grouped", matching="bipartite", k=None):
        arguments.check_tome(r, protected, order, matching, k)
        self.r, self.protected, self.order, self.matching, self.k, self.learned = r, protected, order, matching, k, {}

    def plan(self, metric, *, mask=None, permutation=None):
        n, _ = check.tome(metric, mask, permutation, self.matching, self.protected)
        entry = xp.max(xp.abs(metric), axis=2, keepdims=True) if metric.shape[2] else xp.ones((*metric.shape[:2], 1))
        m = divide(metric, xp.where(entry < xp.inf, entry, 0.0))  # keeps the squares in range
        m = divide(m, xp.sqrt(xp.sum(m * m, axis=2, keepdims=True)))
        similarity = to_numpy(m @ xp.matrix_transpose(m)).tolist()
        real = real_tokens(xp.ones(metric.shape[:2], dtype=xp.bool) if mask is None else mask)
        order = real if permutation is None else to_numpy(permutation).tolist()
        slots = [self.match(*sample) for sample in zip(similarity, real, order, strict=True)]

        width = n - schedule.tokens_removed(n, self.r or 0, self.protected, self.matching)
        if self.matching == "kth":
            width = (schedule.kth_tokens_out if mask is None else schedule.kth_width)(n, self.k, self.protected)
        used = integers([len(set(slot.values())) for slot in slots], len(slots), 1)
        assignment = integers([[slot.get(token, -1) for token in range(n)] for slot in slots], len(slots), n)
        return Partition(assignment, n, width, None if mask is None else xp.arange(width) < used)

    def match(self, similarity, real, order):
        """The slots of the real tokens of one sample."""
        p, rest = self.protected, real[self.protected :]
        removed = schedule.tokens_removed(len(real), self.r or 0, p, self.matching)
        if self.matching == "kth":
            targets = rest[self.k - 1 :: self.k]
            sources = [token for token in rest[: len(targets) * self.k] if token not in targets]
            rest = targets + rest[len(targets) * self.k :]
        elif removed == 0:
            sources = targets = []
        elif self.matching == "random":
            shuffled = [token for token in order if token in rest]
            sources, targets, rest = shuffled[:removed], shuffled[removed:], shuffled[removed:]
        else:
            even, targets = real[p + p % 2 :: 2], real[p + 1 - p % 2 :: 2]
            even = sorted(even, key=lambda a: max(similarity[a][b] for b in targets), reverse=True)  # ties stay
            sources, even = even[:removed], even[removed:]
            even = even if self.order == "score" else sorted(even)
            rest = sorted(even + targets) if self.order == "positional" else even + targets
        slot = {token: place for place, token in enumerate(real[:p] + rest)}
        # of several largest, `max` takes the first
        return slot | {a: slot[max(targets, key=similarity[a].__getitem__)] for a in sources}

    def __call__(self, x, *, metric=None, size=None, mask=None, permutation=None):
        check.tokens("tome", x, size, ("metric", metric, "N D"))
        return self.merge(self.plan(x if metric is None else metric, mask=mask, permutation=permutation), x, size)


class ATS(Merger):
    NAME = "ats"

    def __init__(self, max_tokens, score="per_head", sampling="inverse_transform"):
        arguments.check_ats(max_tokens, score, sampling)
        self.max_tokens, self.score, self.sampling, self.learned = max_tokens, score, sampling, {}

    def plan(self, attn, value, *, mask=None, uniforms=None, noise=None):
        _, n, _ = check.ats(attn, value, mask, uniforms, noise, self.max_tokens, self.sampling)
        # an empty sample has no class token either
        b, k, first, width = value.shape[0], self.max_tokens, min(n, 1), min(n, self.max_tokens + 1)
        row = attn if attn.ndim == 3 else xp.sum(attn[:, :, :1, :], axis=2)
        squares = xp.sum(value * value, axis=3)
        if self.score == "concat":
            row, squares = (xp.sum(heads, axis=1, keepdims=True) for heads in (row, squares))
        score = xp.sum(row * xp.sqrt(squares), axis=1)[:, first:]
        real = xp.ones((b, n), dtype=xp.bool) if mask is None else mask
        eligible = real[:, first:]
        score = xp.where(eligible, score, 0.0)
        if self.sampling == "gumbel":
            preference = xp.log(score / (xp.sum(score, axis=1, keepdims=True) + 1e-6) + 1e-6)[:, None, :] + noise
        else:
            score = xp.where(xp.sum(score, axis=1, keepdims=True) == 0, xp.astype(eligible, score.dtype), score)
            share = preference = divide(score, xp.sum(score, axis=1, keepdims=True))
            if self.sampling == "inverse_transform":
                eligible, cdf = score > 0, xp.cumulative_sum(share, axis=1)
                points = xp.arange(1, 2 * k, 2, dtype=cdf.dtype)[None, :] / (2 * k) if uniforms is None else uniforms
                preference = -xp.abs(cdf[:, None, :] - points[:, :, None])

        choose = self.released if self.sampling == "released" else self.preferred
        samples = zip(real_tokens(eligible), to_numpy(preference).tolist(), strict=True)
        chosen = [{1 + token for token in choose(*sample)} if sample[0] else set() for sample in samples]
        kept = [[0, *sorted(tokens)][:width] for tokens in chosen]
        indices = integers([row + [0] * (width - len(row)) for row in kept], b, width)
        filled = xp.arange(width) < integers([len(row) for row in kept], b, 1)
        return Selection(indices, n, width, filled & xp.take_along_axis(real, indices, axis=1))

    def preferred(self, tokens, points):
        """The token that every sample point or row of noise prefers."""
        return {max(tokens, key=preference.__getitem__) for preference in points}

    def released(self, tokens, share):
        """The tokens nearest to evenly spaced points on the running sum of the sorted shares."""
        ranking, total, c = sorted(tokens, key=share.__getitem__), 0.0, {}
        for token in ranking:
            total += share[token] if c else 0.0
            c[token] = total
        first, whole = min((v for v in c.values() if v > 0), default=0.0), max(self.max_tokens - 1, 1)
        points = [step * (total - first) for step in (range(self.max_tokens) if self.max_tokens > 1 else [1])]
        return {min(ranking, key=lambda token: abs(whole * (c[token] - first) - at)) for at in points}

    def __call__(self, x, *, attn, value, size=None, mask=None, uniforms=None, noise=None):
        check.tokens("ats", x, size, ("value", value, "H N d"))
        return self.merge(self.plan(attn, value, mask=mask, uniforms=uniforms, noise=noise), x, size)


class PatchMerger(Merger):
    NAME = "patch_merger"

    def __init__(self, dim, num_tokens_out, logit_scale=None, normalize=True, use_bias=True, eps=1e-5, seed=0):
        arguments.check_patch_merger(dim, num_tokens_out, logit_scale, eps, seed, normalize, use_bias)
        self.dim, self.normalize, self.eps = dim, normalize, eps
        self.logit_scale = dim**-0.5 if logit_scale is None else logit_scale
        self.learned = {"queries": initial.initial_queries(num_tokens_out, dim, seed), "scale": np.ones(dim, "f4")}
        self.learned |= {"bias": np.zeros(dim, "f4")} if use_bias else {}

    def inputs(self, x, mask):
        x = x if mask is None else xp.where(mask[:, :, None], x, 0.0)
        deviation = x - xp.mean(x, axis=2, keepdims=True)
        normalized = divide(deviation, xp.sqrt(xp.mean(deviation**2, axis=2, keepdims=True) + self.eps))
        scale, bias = (xp.asarray(self.learned.get(name, 0.0), dtype=x.dtype) for name in ("scale", "bias"))
        return normalized * scale + bias if self.normalize else x

    def plan(self, x, *, mask=None):
        check.tokens("patch_merger", x, None, C=self.dim)
        queries = xp.asarray(self.learned["queries"], dtype=x.dtype)
        n, _ = check.patch_merger(x, queries, None, None, mask)
        logits = self.logit_scale * (queries @ xp.matrix_transpose(self.inputs(x, mask)))
        logits = logits if mask is None else xp.where(mask[:, None, :], logits, -xp.inf)
        return Dense(softmax(logits), n, queries.shape[0])

    def __call__(self, x, *, size=None, mask=None):
        check.tokens("patch_merger", x, size, C=self.dim)
        return self.merge(self.plan(x, mask=mask), self.inputs(x, mask), size)


class LTM(Merger):
    NAME = "ltm"

    def __init__(self, dim, compression_ratio, protected=0, prior_smoothing=0.1):
        arguments.check_ltm(dim, compression_ratio, protected, prior_smoothing)
        self.dim, self.ratio, self.protected, self.smoothing = dim, compression_ratio, protected, prior_smoothing
        self.learned = {"weight": np.zeros(dim, "f4")}

    def plan(self, x, *, prior=None, mask=None):
        check.tokens("ltm", x, None, C=self.dim)
        weight, p = xp.asarray(self.learned["weight"], dtype=x.dtype), self.protected
        n, c = check.ltm(x, weight, prior, mask, self.ratio, p)
        g0 = np.zeros((x.shape[0], p + schedule.ltm_tokens_out(n - p, self.ratio), n))
        given = None if prior is None else np.broadcast_to(to_numpy(prior), (len(g0), *prior.shape[-2:]))
        used = []
        for i, real in enumerate(real_tokens(xp.ones(x.shape[:2], dtype=xp.bool) if mask is None else mask)):
            g0[i, range(len(real[:p])), real[:p]] = 1  # alone in their slots
            rest, columns = np.array(real[p:], int), schedule.ltm_tokens_out(len(real[p:]), self.ratio)
            for column in range(columns):
                start, stop = column * len(rest) // columns, -(-(column + 1) * len(rest) // columns)
                pool = np.full(len(rest), self.smoothing / len(rest))
                pool[start:stop] += (1 - self.smoothing) / (stop - start)
                g0[i, p + column, rest] = pool if prior is None else given[i, rest - p, column]
            used.append(len(real[:p]) + columns)
        filled, g0 = xp.arange(g0.shape[1]) < integers(used, len(used), 1), xp.asarray(g0, dtype=x.dtype)
        step = product(g0, x) @ xp.matrix_transpose(x * weight) / c**0.5
        step = xp.where(xp.arange(g0.shape[1])[:, None] < p, 0.0, step)  # protected tokens are copied
        w = softmax(xp.where(g0 == 0, -xp.inf, xp.log(xp.where(g0 == 0, 1.0, g0)) + step))
        return Dense(w, n, g0.shape[1], None if mask is None else filled)

    def __call__(self, x, *, size=None, prior=None, mask=None):
        check.tokens("ltm", x, size, C=self.dim)
        return self.merge(self.plan(x, prior=prior, mask=mask), x, size)


MERGERS = {merger.NAME: merger for merger in (ToMe, ATS, PatchMerger, LTM)}
