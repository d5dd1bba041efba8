"""Intervals of an accuracy for new questions: questions are the sampling unit, a question's samples a
cluster.

The method is chosen by simulated coverage (tests/evaluation/test_intervals.py): Clopper-Pearson at an
effective sample size, as Korn and Graubard (1998) do for surveys. The design effect behind that size cannot
be estimated when nearly all questions agree, where the plain cluster interval covers 44% instead of 95%; so
it is shrunk towards that of a high intra-question correlation, the less the more questions dissent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95

_PRIOR_CORRELATION = 0.8
"""Intra-question correlation assumed where the data cannot tell: high, as sharp policies have it."""

_PRIOR_QUESTIONS = 1.0
"""Weight of that assumption, in questions that dissent from the majority verdict."""


@dataclass(frozen=True)
class Interval:
    """A mean in [0, 1] and its two-sided interval."""

    mean: float
    low: float
    high: float
    method: str


def interval(per_question_correct: Sequence[Sequence[bool]], level: float = LEVEL) -> Interval:
    """Accuracy (mean over questions of the mean over samples) with its interval for new questions.

    Args:
        per_question_correct: one row per question, all with the same number of samples.

    Raises:
        ValueError: no questions, no samples, or rows of different lengths.
    """
    lengths = {len(row) for row in per_question_correct}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"an interval needs equally many samples (at least one) per question, got {sorted(lengths)}")
    correct = np.asarray(per_question_correct, dtype=bool)
    questions, samples = correct.shape
    of_questions = correct.mean(axis=1)
    variance = of_questions.var(ddof=1) if questions > 1 else 0.0
    low, high = bounds(of_questions.mean(), variance, questions, samples, level)
    method = f"clustered Clopper-Pearson {level:.0%}"
    return Interval(float(of_questions.mean()), float(low), float(high), method)


def bounds(
    mean: float | NDArray[np.float64],
    variance: float | NDArray[np.float64],
    questions: int,
    samples: int,
    level: float = LEVEL,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(low, high) from the mean and the unbiased variance of the questions' accuracies; works elementwise."""
    from scipy.special import betaincinv

    mean = np.asarray(mean, dtype=np.float64)
    size = questions * samples / _design_effect(mean, np.asarray(variance, dtype=np.float64), questions, samples)
    right, wrong = mean * size, (1 - mean) * size
    tail = (1 - level) / 2
    # betaincinv has no value at 0 successes or failures, where the bound is 0 or 1 by definition.
    low = np.where(right > 0, betaincinv(np.where(right > 0, right, 1.0), wrong + 1, tail), 0.0)
    high = np.where(wrong > 0, betaincinv(right + 1, np.where(wrong > 0, wrong, 1.0), 1 - tail), 1.0)
    return low, high


def average(intervals: Sequence[Interval]) -> Interval:
    """Unweighted mean of independent benchmarks' accuracies.

    The distances from means to bounds add up in squares, each side by itself (MOVER; Zou and Donner 2008),
    which keeps the asymmetry that each benchmark's interval has near 0 and 1.

    Raises:
        ValueError: nothing to average.
    """
    if not intervals:
        raise ValueError("no benchmarks to average")
    means, lows, highs = (np.array([getattr(i, name) for i in intervals]) for name in ("mean", "low", "high"))
    mean = float(means.mean())
    below = float(np.sqrt(((means - lows) ** 2).sum())) / len(intervals)
    above = float(np.sqrt(((highs - means) ** 2).sum())) / len(intervals)
    return Interval(mean, mean - below, mean + above, f"MOVER of {intervals[0].method}")


def _design_effect(
    mean: NDArray[np.float64], variance: NDArray[np.float64], questions: int, samples: int
) -> NDArray[np.float64]:
    """How many clustered samples are worth one independent one: 1 (no correlation) to `samples` (full)."""
    independent = mean * (1 - mean) / samples
    split = independent > 0
    estimated = np.where(split, np.clip(variance / np.where(split, independent, 1.0), 1, samples), 1.0)
    assumed = 1 + (samples - 1) * _PRIOR_CORRELATION
    dissenting = questions * np.minimum(mean, 1 - mean)
    trust = dissenting / (dissenting + _PRIOR_QUESTIONS)
    return np.asarray(trust * estimated + (1 - trust) * assumed)
