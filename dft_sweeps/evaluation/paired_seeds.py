"""Two ways to train compared over several training seeds each, question by question.

Two questions, two p-values. Are the policies that these seeds gave equally good on average? The test over questions
of `paired` answers that, and knows nothing of other seeds: seeds that spread by the width of its noise make it reject
5% nulls far too often. Would other seeds and other questions show a difference? The two-level interval
and the p-value that inverts it answer that, and are the ones to claim by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dft_sweeps.evaluation.intervals import LEVEL, Array, Kind, pool_seeds, seed_accuracies
from dft_sweeps.evaluation.paired import Counted, average_bounds, inverted, p_value_of

SeedCounts = tuple[Array, Array]
"""Right samples and samples, both [seeds, questions], as `intervals.seed_counts` makes them."""


@dataclass(frozen=True)
class SeedComparison:
    """Mean accuracy over A's seeds minus that over B's; shares in [-1, 1]."""

    difference: float
    low: float
    high: float
    """For other seeds; and for new questions, or for other samples on the same ones."""
    p_value: float
    """Two-sided: one less the highest level whose interval leaves out 0."""
    p_these_seeds: float
    """Two-sided, over questions, on means over these seeds."""
    p_these_seeds_test: str
    """`SIGN_FLIP` or `INTERVAL`, as of `paired.Comparison`."""
    spread_a: float
    spread_b: float
    """Standard deviation over seeds of the accuracy."""
    kind: Kind


def compare_seeds(
    benchmarks: Sequence[tuple[SeedCounts, SeedCounts]],
    level: float = LEVEL,
    kind: Kind = "new_questions",
    seed: int = 0,
) -> SeedComparison:
    """Compares two cells by the unweighted mean of their benchmarks' accuracies.

    The distances to the bounds of `paired.difference_bounds`, of all seeds' samples taken together, and Welch's t
    half-width of the two cells' accuracies by seed add up in squares. Seeds are not paired: a pair of equal seeds
    shares the order of the data at most, and few pairs cost more in degrees of freedom than they give.

    Args:
        benchmarks: per benchmark the counts of A and of B, of the same questions in the same order.

    Raises:
        ValueError: no benchmarks, fewer than two seeds on a side, or different questions.
    """
    if not benchmarks:
        raise ValueError("no benchmarks to compare on")
    sides = [[each[side] for each in benchmarks] for side in (0, 1)]
    if any(len(right) < 2 for side in sides for right, _ in side):
        raise ValueError("the spread over seeds needs at least two seeds on both sides")
    if any(a.shape[1] != b.shape[1] for (a, _), (b, _) in benchmarks):
        raise ValueError("a paired comparison needs the same questions")
    of_a, of_b = (seed_accuracies(side) for side in sides)
    difference, low, high = two_level_bounds(benchmarks, level, kind)
    p_these_seeds, test = p_value_of(_pooled(benchmarks), seed)
    return SeedComparison(
        difference=difference,
        low=max(-1.0, low),
        high=min(1.0, high),
        p_value=inverted(lambda level: two_level_bounds(benchmarks, level, kind)),
        p_these_seeds=p_these_seeds,
        p_these_seeds_test=test,
        spread_a=float(of_a.std(ddof=1)),
        spread_b=float(of_b.std(ddof=1)),
        kind=kind,
    )


def two_level_bounds(
    benchmarks: Sequence[tuple[SeedCounts, SeedCounts]], level: float, kind: Kind
) -> tuple[float, float, float]:
    """(difference, low, high) of the interval of `compare_seeds`; bounds may lie beyond -1 and 1."""
    difference, low, high = average_bounds(_pooled(benchmarks), level, kind)
    half = welch_half_width(*(seed_accuracies([each[side] for each in benchmarks]) for side in (0, 1)), level=level)
    return (
        difference,
        difference - float(np.hypot(difference - low, half)),
        difference + float(np.hypot(high - difference, half)),
    )


def _pooled(benchmarks: Sequence[tuple[SeedCounts, SeedCounts]]) -> list[Counted]:
    """All seeds' samples taken together."""
    return [(*pool_seeds(*a), *pool_seeds(*b)) for a, b in benchmarks]


def welch_half_width(a: Array, b: Array, level: float = LEVEL) -> float:
    """Half-width of Welch's t interval for the difference of two means."""
    from scipy.special import stdtrit

    parts = np.array([each.var(ddof=1) / len(each) for each in (a, b)])
    total = parts.sum()
    if total == 0:
        return 0.0
    freedom = total**2 / (parts**2 / np.array([len(a) - 1, len(b) - 1])).sum()
    return float(stdtrit(freedom, (1 + level) / 2) * np.sqrt(total))
