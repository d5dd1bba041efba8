"""Two trials compared question by question: difference of accuracies, interval, p-value, and corrections over
a family of comparisons.

The sign-flip test's null hypothesis: on each question either trial is as likely to be ahead by any given amount, as
when both policies are equally good there and have as many samples. With unequal numbers it is not: of rare right
answers, the trial with fewer samples is seldom ahead, but then by much. There the interval is inverted instead.
Differences and their bounds are shares in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import lcm

import numpy as np

from dft_sweeps.evaluation.intervals import LEVEL, Array, Kind, bounds, counts

DRAWS = 19_999
"""Random sign vectors of a Monte Carlo p-value, whose standard error at 0.05 is then 0.0015."""

_EXACT_CELLS = 2**20
"""Largest table of exact sums; 500 questions x 16 samples need 8,000 cells."""

LEAST_P = 1e-6
"""Smaller p-values of an inverted interval are not told apart."""

SIGN_FLIP = "sign-flip over questions"
INTERVAL = "interval over questions"

Rows = Sequence[Sequence[bool]]
Counted = tuple[Array, Array, Array, Array]
"""Of one benchmark the right samples and the samples, [questions] each, of A and then of B."""


@dataclass(frozen=True)
class Comparison:
    """Accuracy of A minus that of B."""

    difference: float
    low: float
    high: float
    p_value: float
    """Two-sided, for new questions whichever the kind of interval: a fixed list's interval may leave out 0 where the
    test, which asks about other questions as well, finds nothing."""
    p_test: str
    """`SIGN_FLIP`, or `INTERVAL` where A and B have different numbers of samples of a question."""
    kind: Kind


def compare(a: Rows, b: Rows, level: float = LEVEL, kind: Kind = "new_questions", seed: int = 0) -> Comparison:
    """Compares two trials on one benchmark.

    Args:
        a, b: one row of verdicts per question, the same questions in the same order; rows may differ in length.

    Raises:
        ValueError: different numbers of questions, none, or a question without samples.
    """
    return compare_average([(a, b)], level, kind, seed)


def compare_average(
    benchmarks: Sequence[tuple[Rows, Rows]], level: float = LEVEL, kind: Kind = "new_questions", seed: int = 0
) -> Comparison:
    """Compares two trials by the unweighted mean of several benchmarks' accuracies.

    Distances from each benchmark's difference to its bounds add up in squares; the test flips the signs of all
    questions, each weighted as in the mean, or inverts the interval.
    """
    if not benchmarks:
        raise ValueError("no benchmarks to compare on")
    counted: list[Counted] = []
    for a, b in benchmarks:
        if len(a) != len(b):
            raise ValueError(f"a paired comparison needs the same questions, got {len(a)} and {len(b)}")
        counted.append((*counts(a), *counts(b)))
    difference, low, high = average_bounds(counted, level, kind)
    p_value, test = p_value_of(counted, seed)
    return Comparison(difference, max(-1.0, low), min(1.0, high), p_value, test, kind)


def average_bounds(counted: Sequence[Counted], level: float, kind: Kind) -> tuple[float, float, float]:
    """(difference, low, high) of the unweighted mean over benchmarks; bounds may lie beyond -1 and 1."""
    middles, lows, highs = np.array([difference_bounds(*each, level, kind) for each in counted]).T
    difference = float(middles.mean())
    below = float(np.sqrt(((middles - lows) ** 2).sum())) / len(counted)
    above = float(np.sqrt(((highs - middles) ** 2).sum())) / len(counted)
    return difference, difference - below, difference + above


def p_value_of(counted: Sequence[Counted], seed: int = 0) -> tuple[float, str]:
    """(p, test) of the mean over benchmarks: see `Comparison`."""
    if any((samples_a != samples_b).any() for _, samples_a, _, samples_b in counted):
        return inverted(lambda level: average_bounds(counted, level, "new_questions")), INTERVAL
    differences = [right_a / samples_a - right_b / samples_b for right_a, samples_a, right_b, samples_b in counted]
    if len(counted) == 1:
        return sign_flip(differences[0], lcm(*map(int, counted[0][1])), seed), SIGN_FLIP
    return sign_flip(np.concatenate([each / len(each) for each in differences]), seed=seed), SIGN_FLIP


def inverted(bounds_at: Callable[[float], tuple[float, float, float]]) -> float:
    """One less the highest level at which (difference, low, high) leaves out 0; by bisection, in the logarithm."""

    def leaves_out_zero(level: float) -> bool:
        difference, low, high = bounds_at(level)
        return difference != 0 and (low > 0 or high < 0)

    if leaves_out_zero(1 - LEAST_P):
        return LEAST_P
    least, most = float(np.log(LEAST_P)), 0.0
    while most - least > 1e-4:
        middle = (least + most) / 2
        least, most = (least, middle) if leaves_out_zero(1 - np.exp(middle)) else (middle, most)
    return float(np.exp(most))


def difference_bounds(
    right_a: Array,
    samples_a: Array,
    right_b: Array,
    samples_b: Array,
    level: float = LEVEL,
    kind: Kind = "new_questions",
) -> tuple[Array, Array, Array]:
    """(difference, low, high) from right samples [..., questions] of A and B and samples [questions] of each.

    MOVER with the correlation of the questions' accuracies (Zou and Donner 2008), which covers at least 94%
    of few questions with accuracies near 0, where Student's t covers 80%. Half a question on which the trials
    disagree is added to those seen, lest identical verdicts give an interval without width. On a fixed list
    sampling noise is independent; with one sample, where it cannot be seen, the spread over questions bounds it.
    """
    if kind == "fixed_list" and min(samples_a.min(), samples_b.min()) == 1:
        kind = "new_questions"
    (mean_a, low_a, high_a), (mean_b, low_b, high_b) = (
        bounds(right_a, samples_a, level, kind),
        bounds(right_b, samples_b, level, kind),
    )
    correlation = np.zeros_like(mean_a)
    if kind == "new_questions":
        of_a, of_b = right_a / samples_a - mean_a[..., None], right_b / samples_b - mean_b[..., None]
        spreads = np.sqrt((of_a**2).mean(axis=-1) * (of_b**2).mean(axis=-1))
        correlation = (of_a * of_b).mean(axis=-1) / (spreads + 0.5 / right_a.shape[-1])
    difference = mean_a - mean_b
    below = _joint(mean_a - low_a, high_b - mean_b, correlation)
    above = _joint(high_a - mean_a, mean_b - low_b, correlation)
    return difference, difference - below, difference + above


def sign_flip(differences: Array, scale: int | None = None, seed: int = 0) -> float:
    """Two-sided p-value of a sum of differences [questions] under random signs.

    Exact where all differences are multiples of 1/scale (their sums' distribution is built up question by
    question); else by Monte Carlo, the observed signs counted as one draw (Phipson and Smyth 2010).
    """
    differences = differences[differences != 0]
    if not differences.size:
        return 1.0
    if scale is not None and scale * len(differences) <= _EXACT_CELLS:
        return _exact(np.rint(np.abs(differences) * scale).astype(int), round(abs(differences.sum()) * scale))
    extreme = sum(
        int((np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12).sum())
        for signs in _signs(len(differences), DRAWS, seed)
    )
    return (1 + extreme) / (1 + DRAWS)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that bound the chance of any false claim in the family, whatever the dependence (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors))
    return [float(value) for value in adjusted]


def max_t(differences: Array, seed: int = 0) -> list[float]:
    """Step-down max-T adjusted p-values (Westfall and Young 1993) of comparisons that share questions.

    Less strict than Holm where comparisons are correlated, since one set of signs serves all of them.

    Args:
        differences: [questions, comparisons]; 0 where a comparison lacks a question.
    """
    norms = np.sqrt((differences**2).sum(axis=0))
    scaled = differences / np.where(norms > 0, norms, 1.0)
    observed = np.abs(scaled.sum(axis=0))
    order = np.argsort(-observed, kind="stable")
    extreme = np.zeros(len(order))
    for signs in _signs(len(differences), DRAWS, seed):
        drawn = np.abs(signs @ scaled[:, order])
        # For the j-th largest statistic: the maximum over it and all smaller ones.
        largest = np.maximum.accumulate(drawn[:, ::-1], axis=1)[:, ::-1]
        extreme += (largest >= observed[order] - 1e-12).sum(axis=0)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate((1 + extreme) / (1 + DRAWS))
    return [float(value) for value in adjusted]


def _joint(first: Array, second: Array, correlation: Array) -> Array:
    return np.asarray(np.sqrt(np.maximum(0.0, first**2 + second**2 - 2 * correlation * first * second)))


def _exact(sizes: np.ndarray, observed: int) -> float:
    """Chance that integers with random signs sum to `observed` or more in absolute value."""
    total = int(sizes.sum())
    # chances[s]: of a sum s over the positive ones; the signed sum is 2 s - total.
    chances = np.zeros(total + 1)
    chances[0], reached = 1.0, 0
    for size in sizes:
        chances[size : reached + size + 1] += chances[: reached + 1].copy()
        chances[: reached + size + 1] /= 2
        reached += size
    return float(min(1.0, chances[np.abs(2 * np.arange(total + 1) - total) >= observed].sum()))


def _signs(questions: int, draws: int, seed: int) -> Iterator[Array]:
    """Random signs [draws, questions], a thousand draws at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, draws, 1000):
        heads = rng.integers(0, 2, (min(1000, draws - start), questions), dtype=np.int8)
        yield heads.astype(np.float64) * 2 - 1
