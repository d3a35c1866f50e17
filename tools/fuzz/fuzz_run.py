"""What every fuzzer here shares: a seed, a count, a time limit, and the figures that it prints."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

MOST_SHOWN = 20


class Tally:
    """Counts by outcome, the first findings, and the calls, where one call tries many cases."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.findings: list[str] = []
        self.calls = 0

    def add(self, outcome: str, finding: str = "", cases: int = 1) -> None:
        """Count an outcome of some cases; what has a text is a finding, and makes the run fail."""
        self.counts[outcome] += cases
        if finding:
            self.findings.append(f"{outcome}: {finding}")


def main(name: str, outcomes: Sequence[str], one: Callable[[np.random.Generator, Tally], None]) -> int:
    """Run a fuzzer from the command line until its count or its time is used up.

    Args:
        name: of the fuzzer; outcomes: in the order in which they are printed.
        one: tries something with a generator of random numbers, and counts it.

    Returns:
        The exit status: 1 if there was a finding.
    """
    parser = argparse.ArgumentParser(prog=name)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=3600.0)
    asked = parser.parse_args()
    generator, tally, end = np.random.default_rng(asked.seed), Tally(), time.monotonic() + asked.seconds
    while sum(tally.counts.values()) < asked.count and time.monotonic() < end:
        one(generator, tally)
    tried = sum(tally.counts.values())
    print(
        f"{name}: seed {asked.seed}, tried {tried:,}",
        *(f"{each} {tally.counts[each]:,}" for each in outcomes),
        *([f"in {tally.calls:,} calls"] if tally.calls else []),
        sep=", ",
    )
    for finding in list(dict.fromkeys(tally.findings))[:MOST_SHOWN]:
        print(f"  {finding}", file=sys.stderr)
    return 1 if tally.findings else 0
