"""How many tokens a layer removes: integers only, so every backend shares this file."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any

from tokenmerge.spec.shared.arguments import check_choice, check_count, check_integer, check_real, plain, shown


def tokens_removed(num_tokens: int, r: int, protected: int = 0, matching: str = "bipartite") -> int:
    """Tokens that ToMe really removes: `r_eff = max(0, min(r, (N - protected) // 2))`.

    Bipartite matching can remove at most one of every two tokens that are not protected (ToMe, section 3). Random
    matching removes any number, as long as one is left to receive: `max(0, min(r, N - protected - 1))`.

    >>> tokens_removed(197, 16, protected=1), tokens_removed(5, 16, protected=1), tokens_removed(5, 16, 1, "random")
    (16, 2, 3)
    """
    _check_counts("tokens_removed", num_tokens=num_tokens, r=r, protected=protected)
    check_choice("tokens_removed", "matching", matching, ("bipartite", "kth", "random"))
    mergeable = num_tokens - protected
    return max(0, min(r, mergeable - 1 if matching == "random" else mergeable // 2))


def kth_tokens_out(num_tokens: int, k: int, protected: int = 0) -> int:
    """Tokens that `matching="kth"` leaves: one of every run of `k`, and the tail of `n mod k`.

    >>> kth_tokens_out(10, 3)
    4
    """
    _check_counts("kth_tokens_out", num_tokens=num_tokens, protected=protected)
    check_count("kth_tokens_out", "k", k, minimum=1)
    if num_tokens <= protected:
        return num_tokens
    n = num_tokens - protected
    return protected + n // k + n % k


def kth_width(num_tokens: int, k: int, protected: int = 0) -> int:
    """Slots that a padded batch of up to `num_tokens` tokens needs: a shorter sample may have a longer tail.

    >>> kth_tokens_out(6, 3), kth_tokens_out(5, 3), kth_width(6, 3)
    (2, 3, 3)
    """
    _check_counts("kth_width", num_tokens=num_tokens, protected=protected)
    check_count("kth_width", "k", k, minimum=1)
    shortest = max(0, num_tokens - k)
    return max(kth_tokens_out(n, k, protected) for n in range(shortest, num_tokens + 1))


def ltm_tokens_out(num_tokens: int, compression_ratio: float) -> int:
    """Tokens that LTM makes of `n`: `P' = ceil(rho n)`, with rho read as the decimal number that was written.

    Read so, 0.55 of 100 tokens are 55; the product of the two binary floating-point numbers would give 56.

    >>> ltm_tokens_out(197, 0.8), ltm_tokens_out(100, 0.55), ltm_tokens_out(0, 0.5)
    (158, 55, 0)
    """
    check_count("ltm_tokens_out", "num_tokens", num_tokens)
    check_real("ltm_tokens_out", "compression_ratio", compression_ratio, 0.0, 1.0, "(0, 1]")
    ratio = Fraction(str(float(compression_ratio)))
    return -(-ratio.numerator * num_tokens // ratio.denominator)  # integers only: a compiler may trace `num_tokens`


def ltm_tokens_out_upto(num_tokens: int, compression_ratio: float) -> tuple[int, ...]:
    """`ltm_tokens_out` of 0, 1, ..., n: a padded batch looks up each sample's own number of tokens.

    >>> ltm_tokens_out_upto(4, 0.5)
    (0, 1, 1, 2, 2)
    """
    num_tokens = check_integer("ltm_tokens_out_upto", "num_tokens", num_tokens, minimum=0)
    check_real("ltm_tokens_out_upto", "compression_ratio", compression_ratio, 0.0, 1.0, "(0, 1]")
    return _upto(num_tokens, float(compression_ratio))


@lru_cache(maxsize=64)
def _upto(num_tokens: int, compression_ratio: float) -> tuple[int, ...]:
    return tuple(ltm_tokens_out(n, compression_ratio) for n in range(num_tokens + 1))


def _check_counts(owner: str, **counts: Any) -> None:
    for name, count in counts.items():
        check_count(owner, name, count)


def check_schedule(owner: str, r: Any) -> None:
    """Check what `merge_schedule` takes, as far as that does not depend on the network."""
    if isinstance(r, tuple):
        if len(r) != 2:
            raise ValueError(f"{owner}: `r` must be (r, inflect) when it is a tuple, got {shown(r)}")
        check_real(owner, "inflect", r[1], -1.0, 1.0, "[-1, 1]")
        r = r[:1]
    for count in r if isinstance(r, (tuple, list)) else (r,):
        check_integer(owner, "r", count, minimum=0, hint="r=0 merges nothing")


def merge_schedule(r: int | tuple[int, float] | list[int], depth: int, *, steps: int | None = None) -> tuple[int, ...]:
    """Tokens to remove in each of `depth` layers.

    Args:
        r: an integer >= 0 (the same in every layer); a tuple `(r, inflect)` with inflect in [-1, 1], which runs
            linearly from `min = int(r * (1 - inflect))` to `2r - min`, layer `i` getting
            `int(min + (max - min) * i / (depth - 1))`; or a list of integers >= 0, one per layer, padded with zeros.
        depth: number of layers, >= 1.
        steps: None, or in how many layers to remove them: the layers are divided into so many runs, as even as can be
            and longer ones first, and the middle layer of a run (of two the first) removes what the run would. A
            network then has few different numbers of tokens, which a compiler can use.

    Returns:
        A tuple of `depth` integers.

    Raises:
        TypeError, ValueError: an `r` that is none of these; a list longer than the network is an error, not cut.

    Source: ToMe (arXiv 2210.09461), section 4.1.

    >>> merge_schedule(8, 3), merge_schedule((8, -1.0), 3), merge_schedule([4, 2], 3)
    ((8, 8, 8), (16, 8, 0), (4, 2, 0))
    >>> merge_schedule(8, 6, steps=2)
    (0, 24, 0, 0, 24, 0)
    """
    depth, r = check_integer("merge_schedule", "depth", depth, minimum=1), plain(r)
    if steps is not None:
        steps = check_integer("merge_schedule", "steps", steps, minimum=1)
        return _stairs(merge_schedule(r, depth), min(steps, depth))
    if isinstance(r, tuple):
        return _inflected(r, depth)
    if isinstance(r, list):
        for count in r:
            check_integer("merge_schedule", "r", count, minimum=0)
        if len(r) > depth:
            raise ValueError(f"merge_schedule: `r` must have at most depth = {depth} entries, got {len(r)}")
        return tuple(int(count) for count in r) + (0,) * (depth - len(r))
    check_integer("merge_schedule", "r", r, minimum=0, hint="r=0 merges nothing")
    return (r,) * depth


def _inflected(r: tuple[int, float], depth: int) -> tuple[int, ...]:
    if len(r) != 2:
        raise ValueError(
            f"merge_schedule: `r` must be (r, inflect) when it is a tuple, got {len(r)} entries (a list is a schedule)"
        )
    mean, inflect = r
    check_integer("merge_schedule", "r", mean, minimum=0)
    check_real("merge_schedule", "inflect", inflect, -1.0, 1.0, "[-1, 1]")
    if depth == 1:
        return (int(mean),)
    low = int(mean * (1 - inflect))
    high = 2 * mean - low
    return tuple(int(low + (high - low) * layer / (depth - 1)) for layer in range(depth))


def _stairs(schedule: tuple[int, ...], steps: int) -> tuple[int, ...]:
    """The same sum in `steps` layers, each in the middle of its run."""
    length, longer = divmod(len(schedule), steps)
    stairs, start = [0] * len(schedule), 0
    for step in range(steps):
        stop = start + length + (step < longer)
        stairs[(start + stop - 1) // 2] = sum(schedule[start:stop])
        start = stop
    return tuple(stairs)
