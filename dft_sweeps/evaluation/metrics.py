"""Measures over a question's samples beside accuracy: pass@k and majority@k, each in expectation over which k
of the samples were drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import comb

import numpy as np


def pass_at_k(right: int, samples: int, k: int) -> float:
    """Chance that at least one of k samples drawn without replacement from a question's `samples` is right.

    Unbiased for 1 - (1 - p)^k (Chen et al. 2021, equation 1).

    Raises:
        ValueError: unless 1 <= k <= samples.
    """
    _check(k, samples)
    assert 0 <= right <= samples
    return 1 - comb(samples - right, k) / comb(samples, k)


def majority_at_k(votes: Sequence[tuple[str | None, bool]], k: int) -> float:
    """Chance that the commonest answer among k of a question's samples is right.

    Exact over all subsets of k samples; answers that tie for the most votes win with equal chance. Right
    samples agree with one another whatever their spelling, since each equals the gold answer; wrong ones
    agree when their extracted answers are the same text. Samples without an answer do not vote, and where
    nobody votes the outcome is wrong.

    Args:
        votes: (extracted answer or None, whether it is right), one per sample.

    Raises:
        ValueError: unless 1 <= k <= number of samples.
    """
    _check(k, len(votes))
    right = sum(correct for _, correct in votes)
    rivals = Counter(answer for answer, correct in votes if not correct and answer is not None)
    if k == len(votes):  # the one subset there is, thousands of times in an evaluation
        most = max(rivals.values(), default=0)
        ties = sum(count == right for count in rivals.values())
        return 1 / (ties + 1) if right and most <= right else 0.0
    silent = len(votes) - right - sum(rivals.values())
    # Subsets in which the right answer has `top` votes, no rival more, and `ties` rivals as many.
    ways = sum(
        comb(right, top) * _subsets(list(rivals.values()), silent, top, ties, k - top) / (ties + 1)
        for top in range(1, min(right, k) + 1)
        for ties in range((k - top) // top + 1)
    )
    return float(ways / comb(len(votes), k))


def mean_pass_at_k(right: Sequence[int], samples: Sequence[int], k: int) -> float:
    """Mean over questions of `pass_at_k`."""
    return float(np.mean([pass_at_k(*counts, k) for counts in zip(right, samples, strict=True)]))


def mean_majority_at_k(questions: Sequence[Sequence[tuple[str | None, bool]]], k: int) -> float:
    """Mean over questions of `majority_at_k`."""
    return float(np.mean([majority_at_k(votes, k) for votes in questions]))


def _subsets(rivals: list[int], silent: int, top: int, ties: int, size: int) -> int:
    """Subsets of `size` samples of rivals and silent ones, with `ties` rivals at `top` votes and the others below."""
    # counts[j][m]: subsets of m samples so far in which j rivals have `top` votes.
    counts = [[0] * (size + 1) for _ in range(ties + 1)]
    counts[0] = [comb(silent, m) for m in range(size + 1)]
    for votes in rivals:
        grown = [[0] * (size + 1) for _ in range(ties + 1)]
        for j, row in enumerate(counts):
            for m, found in enumerate(row):
                for taken in range(min(votes, top, size - m) + 1):
                    at = j + (taken == top)
                    if found and at <= ties:
                        grown[at][m + taken] += found * comb(votes, taken)
        counts = grown
    return counts[ties][size]


def _check(k: int, samples: int) -> None:
    if not 1 <= k <= samples:
        raise ValueError(f"k must be from 1 to the {samples} samples of a question, got {k}")
