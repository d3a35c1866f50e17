"""ToMe, broken: which tokens merge, into which, and where they go."""

from __future__ import annotations

from tokenmerge.conformance.mutants.edited import Edit
from tokenmerge.conformance.mutants.mutant import Mutant


def _mutant(
    name: str, rule: str, what: str, *changes: tuple[str, str], everywhere: bool = False, file: str = "tome"
) -> Mutant:
    edits = tuple(Edit(file, old, new, everywhere) for old, new in changes)
    return Mutant(f"tome-{name}", rule, what, edits, mergers=("tome",))


_IMPORT = "from tokenmerge.spec.shared.schedule import kth_tokens_out, kth_width, tokens_removed\n"
_REMOVED = """from tokenmerge.spec.shared.schedule import kth_tokens_out, kth_width


def tokens_removed(num_tokens: int, r: int, protected: int = 0, matching: str = "bipartite") -> int:
    return max(0, min(r, {most}))
"""
_PLACE = "place = inverse(descending(best))"
_MASKED = "    best[~mergeable_a] = -np.inf\n"
_NEAREST = "nearest(m[:, 0::2], m[:, 1::2], mergeable_b)"

MUTANTS = (
    _mutant(
        "r-not-clamped",
        "TOME-1",
        "Up to half of all tokens are removed, protected ones included.",
        (_IMPORT, _REMOVED.format(most="num_tokens // 2")),
        ("np.clip((count - protected) // 2, 0, r)", "np.clip(count // 2, 0, r)"),
        everywhere=True,
    ),
    _mutant(
        "r-clamped-too-far",
        "TOME-1",
        "One pair is always left unmerged.",
        (_IMPORT, _REMOVED.format(most="(num_tokens - protected) // 2 - 1")),
        ("np.clip((count - protected) // 2, 0, r)", "np.clip((count - protected) // 2 - 1, 0, r)"),
        everywhere=True,
    ),
    _mutant(
        "nothing-merged-is-not-identity",
        "TOME-1",
        "Where nothing is merged the tokens are still put in order, even ones first.",
        (
            "    if tokens_removed(n, r, protected) == 0:\n        return position, count\n",
            "    if n < 2:\n        return position, count\n",
        ),
        ("return np.where(removed == 0, position, slots)", "return slots"),
    ),
    _mutant(
        "not-normalized",
        "TOME-2",
        "Similarity is the product of the vectors as they are.",
        ("return np.divide(m, norm, out=m, where=has_direction)", "return np.where(has_direction, metric, 0 * norm)"),
    ),
    _mutant(
        "absolute-similarity",
        "TOME-2",
        "Opposite vectors count as similar.",
        (
            "similarity = a[some, part] @ np.swapaxes(b[some], 1, 2)",
            "similarity = np.abs(a[some, part] @ np.swapaxes(b[some], 1, 2))",
        ),
        file="matching",
    ),
    _mutant(
        "zero-vector-nan",
        "TOME-2",
        "A zero vector is divided by its length.",
        ("m = np.divide(m, largest, out=np.zeros_like(m), where=has_direction)", "m = m / largest"),
    ),
    _mutant(
        "squares-overflow",
        "TOME-2",
        "Squares are summed without dividing by the largest entry first.",
        (
            "m = np.divide(m, largest, out=np.zeros_like(m), where=has_direction)",
            "m = np.where(has_direction, m, np.zeros_like(m))",
        ),
    ),
    _mutant(
        "even-odd-swapped",
        "TOME-3",
        "Tokens at odd positions look for a partner at even ones.",
        ("0::2", "EVEN"),
        ("1::2", "0::2"),
        ("EVEN", "1::2"),
        (
            "positions_a, positions_b = np.arange(0, n, 2), np.arange(1, n, 2)",
            "positions_b, positions_a = np.arange(0, n, 2), np.arange(1, n, 2)",
        ),
        everywhere=True,
    ),
    _mutant(
        "split-after-protected",
        "TOME-3",
        "Even and odd are counted from the first token that is not protected.",
        (
            "slots, used = _bipartite(m, count, r, protected, order)",
            "slots, used = _bipartite(m[:, protected:], count - protected, r, 0, order)\n"
            "            first = np.broadcast_to(np.arange(protected), (len(m), protected))\n"
            "            slots, used = np.concatenate([first, protected + slots], axis=1), protected + used",
        ),
    ),
    _mutant(
        "odd-number-off-by-one",
        "TOME-3",
        "In an odd number of tokens the pairs are formed from behind, and the first token has no partner.",
        (_MASKED, f"{_MASKED}    best[(count % 2 == 1)[:, 0], :1] = -np.inf\n"),
    ),
    _mutant(
        "class-token-merges",
        "TOME-4",
        "Protected tokens at even positions look for a partner like all others.",
        (_MASKED, _MASKED.replace("mergeable_a", "(positions_a < count)")),
    ),
    _mutant(
        "distillation-token-receives",
        "TOME-4",
        "Other tokens may merge into a protected token at an odd position.",
        (_NEAREST, _NEAREST.replace("mergeable_b", "positions_b < count")),
    ),
    _mutant(
        "only-class-token-in-front",
        "TOME-4",
        "Distillation and register tokens never merge, but are put among the even and the odd tokens.",
        (
            "        unmerged_a = mergeable_a & ~merged\n",
            '        if order == "grouped":\n'
            "            protected = min(protected, 1)\n"
            "            mergeable_a = (positions_a >= protected) & (positions_a < count)\n"
            "            mergeable_b = (positions_b >= protected) & (positions_b < count)\n"
            "        unmerged_a = mergeable_a & ~merged\n",
        ),
    ),
    _mutant(
        "partner-ties-high",
        "TOME-5",
        "Of equally similar partners the last is taken.",
        (
            "= similarity.argmax(axis=2)  # the lowest of several maxima",
            "= similarity.shape[2] - 1 - similarity[:, :, ::-1].argmax(axis=2)",
        ),
        file="matching",
    ),
    _mutant(
        "second-best-partner",
        "TOME-5",
        "A token prefers the odd token right behind it if that is nearly as similar as the best.",
        (
            "= similarity.argmax(axis=2)",
            "= (similarity + 0.1 * (np.arange(length)[part, None] == np.arange(partners))).argmax(axis=2)",
        ),
        file="matching",
    ),
    _mutant(
        "ranking-ties-high",
        "TOME-6",
        "Of equally similar pairs the one behind is merged first.",
        (
            _PLACE,
            "backwards = np.argsort(-best[:, ::-1], axis=1, kind='stable')\n"
            "    place = np.argsort(best.shape[1] - 1 - backwards, axis=1)",
        ),
    ),
    _mutant(
        "ranking-unstable",
        "TOME-6",
        "The pairs to merge are found with a sort that is not stable.",
        (_PLACE, "place = inverse(np.argsort(-best, axis=1, kind='stable' if order == 'score' else 'heapsort'))"),
    ),
    _mutant(
        "ranking-by-position",
        "TOME-6",
        "The first even tokens are merged, however similar their partners are.",
        (_PLACE, "place = inverse(descending(np.where(np.isneginf(best), 0, 1)))"),
    ),
    _mutant(
        "grouped-in-score-order",
        "TOME-7",
        'Order "grouped" leaves the unmerged tokens in the order of their scores.',
        ('place - removed if order == "score" else np.cumsum', "place - removed if order == order else np.cumsum"),
    ),
    _mutant(
        "positional-is-grouped",
        "TOME-8",
        'Order "positional" puts even tokens in front of odd ones.',
        ('if order == "positional":', 'if order == "other":'),
    ),
    _mutant(
        "score-is-grouped",
        "TOME-9",
        'Order "score" has the unmerged tokens by position.',
        ('if order == "score" else', 'if order == "other" else'),
    ),
    _mutant(
        "score-ties-high",
        "TOME-9",
        'Order "score" has equally similar tokens in descending order of their positions.',
        (
            "        unmerged_a = mergeable_a & ~merged\n",
            "        backwards = np.argsort(-best[:, ::-1], axis=1, kind='stable')\n"
            "        last_first = np.argsort(best.shape[1] - 1 - backwards, axis=1)\n"
            "        ahead = (last_first[:, None, :] < last_first[:, :, None]) & ~merged[:, None, :]\n"
            "        place = np.where(merged, place, removed + ahead.sum(axis=2))\n"
            "        unmerged_a = mergeable_a & ~merged\n",
        ),
    ),
    _mutant(
        "kth-drops-tail",
        "TOME-10",
        'Matching "kth" drops the tokens behind the last full run.',
        ("protected + full_runs + place - full_runs * k)", "-1)"),
    ),
    _mutant(
        "kth-keeps-first",
        "TOME-10",
        'Matching "kth" keeps the first token of each run.',
        ("in_run[:, :, -1], in_run[:, :, :-1]", "in_run[:, :, 0], in_run[:, :, 1:]"),
        ("place % k != k - 1", "place % k != 0"),
    ),
    _mutant(
        "kth-stays-in-run",
        "TOME-10",
        'Matching "kth" merges every run into its own last token.',
        (
            "most_similar[:, is_source] = nearest(sources, kept, np.arange(runs) < full_runs)[1]",
            "most_similar[:] = run",
        ),
    ),
    _mutant(
        "random-rest-sorted",
        "TOME-11",
        'Matching "random" puts the remaining tokens by position.',
        (
            "    column, remaining =",
            "    rest = shuffled[:, most_removed : n - protected]\n    rest.sort(axis=1)\n    column, remaining =",
        ),
    ),
    _mutant(
        "random-half",
        "TOME-11",
        'Matching "random" removes at most half of the tokens, as bipartite matching does.',
        (", matching)", ")"),
        ('most_removed = tokens_removed(n, r, protected, "random")', "most_removed = tokens_removed(n, r, protected)"),
        ("np.clip(count - protected - 1, 0, r)", "np.clip((count - protected) // 2, 0, r)"),
        everywhere=True,
    ),
    _mutant(
        "random-leaves-none",
        "TOME-11",
        'In a padded sample matching "random" leaves no token to receive.',
        ("np.clip(count - protected - 1, 0, r)", "np.clip(count - protected, 0, r)"),
    ),
    _mutant(
        "random-merges-last",
        "TOME-11",
        'Matching "random" reads the permutation from behind.',
        (
            "    shuffled_in = np.take_along_axis(",
            "    permutation = permutation[:, ::-1]\n    shuffled_in = np.take_along_axis(",
        ),
    ),
    _mutant(
        "padding-merges",
        "TOME-12",
        "Padding goes into the first slot.",
        (
            "np.take_along_axis(slots, np.maximum(rank, 0), axis=1), -1)",
            "np.take_along_axis(slots, np.maximum(rank, 0), axis=1), 0)",
        ),
    ),
    _mutant(
        "padding-shifts-even-odd",
        "TOME-12",
        "Even and odd positions are counted with the padding in between.",
        (
            "        if mask is not None:\n            m = np.take_along_axis",
            "        if False:\n            m = np.take_along_axis",
        ),
    ),
)
