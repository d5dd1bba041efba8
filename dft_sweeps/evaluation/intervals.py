"""Intervals of an accuracy, of two kinds.

`new_questions`: what would be measured on other questions like these; questions are the sampling unit, a
question's samples a cluster. `fixed_list`: what other samples on the same questions would give; it answers
whether a published number is reproduced. Neither holds the spread over training seeds, which `over_seeds` adds.

Both are binomial intervals at an effective sample size (as Korn and Graubard 1998 do for surveys), chosen by
simulated coverage (tests/bench/intervals.py prints the candidates). The size is estimated from variances
that say nothing when nearly all samples agree, where plain cluster intervals cover 40% instead of 95%; so it
is shrunk towards a cautious value, the less the more samples or questions dissent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95

Kind = Literal["new_questions", "fixed_list"]
Array = NDArray[np.float64]

_CORRECTION = 0.15
"""0 makes the binomial interval Clopper and Pearson's, which is wider than it need be, 1/2 Jeffreys', which
covers 89% of 30 questions' accuracies at worst. At 0.15 the exact coverage is at least 94.5% for 30 questions or
more and accuracies from 2% to 98%."""

_PRIOR_CORRELATION = 0.8
"""Intra-question correlation assumed where the data cannot tell: high, as sharp policies have it."""

_PRIOR_QUESTIONS = 2.0
"""Weight of that assumption, in questions that dissent from the majority verdict."""


@dataclass(frozen=True)
class Interval:
    """A mean in [0, 1] and its two-sided interval."""

    mean: float
    low: float
    high: float
    method: str
    kind: Kind = "new_questions"

    @property
    def half_width(self) -> float:
        """The longer of the two distances from the mean, in [0, 1]."""
        return max(self.mean - self.low, self.high - self.mean)


def interval(
    per_question_correct: Sequence[Sequence[bool]], level: float = LEVEL, kind: Kind = "new_questions"
) -> Interval:
    """Accuracy (mean over questions of the mean over samples) with its interval.

    Args:
        per_question_correct: one row per question; rows may differ in length.

    Raises:
        ValueError: no questions, or a question without samples.
    """
    return interval_of_counts(*counts(per_question_correct), level, kind)


def interval_of_counts(right: Array, samples: Array, level: float = LEVEL, kind: Kind = "new_questions") -> Interval:
    """`interval` from right samples [questions] and samples [questions]."""
    mean, low, high = bounds(right, samples, level, kind)
    return Interval(float(mean), float(low), float(high), f"effective-size binomial {level:.1%}", kind)


def over_seeds(
    per_seed: Sequence[Sequence[Sequence[bool]]], level: float = LEVEL, kind: Kind = "new_questions"
) -> Interval:
    """Mean accuracy of policies trained with several seeds, with its interval for other seeds too.

    Args:
        per_seed: for each training seed the rows of `interval`, of the same questions in the same order.

    Raises:
        ValueError: fewer than two seeds, or seeds with different numbers of questions.
    """
    return over_seeds_of_counts([seed_counts(per_seed)], level, kind)


def over_seeds_of_counts(
    benchmarks: Sequence[tuple[Array, Array]], level: float = LEVEL, kind: Kind = "new_questions"
) -> Interval:
    """`over_seeds`, of the unweighted mean over benchmarks, from right samples and samples [seeds, questions] of each.

    The distances to the bounds of all seeds' samples taken together and Student's t half-width of the seeds'
    accuracies add up in squares. The latter contains sampling noise as well, so this errs to the wide side. A seed
    that is good on one benchmark may be so on all: its accuracy is the mean over benchmarks.

    Raises:
        ValueError: fewer than two seeds, or nothing to average.
    """
    pooled = average([interval_of_counts(*pool_seeds(*each), level, kind) for each in benchmarks])
    accuracies = seed_accuracies(benchmarks)
    half = seed_half_width(accuracies, level)
    mean = float(accuracies.mean())
    low = max(0.0, mean - float(np.hypot(pooled.mean - pooled.low, half)))
    high = min(1.0, mean + float(np.hypot(pooled.high - pooled.mean, half)))
    return Interval(mean, low, high, f"{pooled.method} and t over {len(accuracies)} seeds", kind)


def seed_counts(per_seed: Sequence[Sequence[Sequence[bool]]]) -> tuple[Array, Array]:
    """Right samples and samples [seeds, questions].

    Raises:
        ValueError: no seeds, or seeds with different numbers of questions.
    """
    if len({len(rows) for rows in per_seed}) != 1:
        raise ValueError("seeds can be taken together only on the same questions")
    right, samples = zip(*map(counts, per_seed), strict=True)
    return np.stack(right), np.stack(samples)


def pool_seeds(right: Array, samples: Array) -> tuple[Array, Array]:
    """Of [seeds, questions], every question's samples of all seeds; seeds weigh alike, whatever their samples."""
    together = samples.sum(axis=0)
    return (right / samples).mean(axis=0) * together, together


def seed_accuracies(benchmarks: Sequence[tuple[Array, Array]]) -> Array:
    """Per seed, the unweighted mean over benchmarks."""
    return np.asarray(np.mean([(right / samples).mean(axis=1) for right, samples in benchmarks], axis=0))


def seed_half_width(accuracies: Array, level: float = LEVEL) -> float:
    """Student's t half-width of the mean of several seeds' accuracies.

    Raises:
        ValueError: fewer than two seeds.
    """
    from scipy.special import stdtrit

    seeds = len(accuracies)
    if seeds < 2:
        raise ValueError("the spread over seeds needs at least two seeds")
    return float(stdtrit(seeds - 1, (1 + level) / 2) * np.std(accuracies, ddof=1) / np.sqrt(seeds))


def average(intervals: Sequence[Interval]) -> Interval:
    """Unweighted mean of independent benchmarks' accuracies.

    The distances from means to bounds add up in squares, each side by itself (MOVER; Zou and Donner 2008),
    which keeps the asymmetry that each benchmark's interval has near 0 and 1.

    Raises:
        ValueError: nothing to average, or intervals of both kinds.
    """
    if not intervals:
        raise ValueError("no benchmarks to average")
    if len({each.kind for each in intervals}) > 1:
        raise ValueError("intervals for new questions and for a fixed list cannot be averaged together")
    means, lows, highs = (np.array([getattr(i, name) for i in intervals]) for name in ("mean", "low", "high"))
    mean = float(means.mean())
    below = float(np.sqrt(((means - lows) ** 2).sum())) / len(intervals)
    above = float(np.sqrt(((highs - means) ** 2).sum())) / len(intervals)
    return Interval(mean, mean - below, mean + above, f"MOVER of {intervals[0].method}", intervals[0].kind)


def counts(per_question_correct: Sequence[Sequence[bool]]) -> tuple[Array, Array]:
    """(right samples, samples) of each question.

    Raises:
        ValueError: no questions, or a question without samples.
    """
    samples = np.array([len(row) for row in per_question_correct], dtype=np.float64)
    if not samples.size or not samples.all():
        raise ValueError("an interval needs at least one question and at least one sample per question")
    return np.array([sum(row) for row in per_question_correct], dtype=np.float64), samples


def bounds(
    right: Array, samples: Array, level: float = LEVEL, kind: Kind = "new_questions"
) -> tuple[Array, Array, Array]:
    """(mean, low, high) from right samples [..., questions] and samples [questions]; leading axes are evaluations.

    Arrays serve simulations and sequential use; one evaluation has `interval`.
    """
    shares = right / samples
    mean, questions = shares.mean(axis=-1), shares.shape[-1]
    if kind == "fixed_list":
        size = _size_fixed(shares, samples, level)
    else:
        variance = shares.var(axis=-1, ddof=1) if questions > 1 else np.full_like(mean, np.inf)
        size = size_for_new_questions(mean, variance, questions, float(1 / np.mean(1 / samples)))
    return mean, *binomial_bounds(mean, size, level)


def binomial_bounds(mean: Array, size: Array, level: float) -> tuple[Array, Array]:
    """Binomial interval of a share among `size` (real) trials, by quantiles of beta distributions."""
    from scipy.special import betaincinv

    right, wrong, tail = mean * size, (1 - mean) * size, (1 - level) / 2
    # Without successes (failures) the bound is 0 (1); rounding leaves such counts a trifle beside 0.
    some_right, some_wrong = right > 1e-9, wrong > 1e-9
    more, less = 1 - _CORRECTION, _CORRECTION
    low = np.where(some_right, betaincinv(np.maximum(right, 1e-9) + less, wrong + more, tail), 0.0)
    high = np.where(some_wrong, betaincinv(right + more, np.maximum(wrong, 1e-9) + less, 1 - tail), 1.0)
    return np.minimum(low, mean), np.maximum(high, mean)


def size_for_new_questions(mean: Array, variance: Array, questions: int, samples: float) -> Array:
    """Independent samples that are worth as much as the clustered ones: from one per question to all.

    The ratio of the questions' variance to that of independent samples (the design effect) is mixed with the
    one that `_PRIOR_CORRELATION` implies.

    Args:
        mean, variance: of the questions' accuracies, the variance unbiased; one or more evaluations.
        samples: per question; the harmonic mean where they differ.
    """
    independent = mean * (1 - mean) / samples
    estimated = np.clip(variance / np.where(independent > 0, independent, 1.0), 1, samples)
    assumed = 1 + (samples - 1) * _PRIOR_CORRELATION
    dissenting = questions * np.minimum(mean, 1 - mean)
    trust = dissenting / (dissenting + _PRIOR_QUESTIONS)
    return np.asarray(questions * samples / (trust * estimated + (1 - trust) * assumed))


def _size_fixed(shares: Array, samples: Array, level: float) -> Array:
    """Binomial samples that vary as much as the mean does over repetitions on these questions.

    Never fewer than there are: samples of questions of differing difficulty vary less than binomial ones
    (Hoeffding 1956). The variance within questions counts z^2 / 2 dissenting samples more than were seen, as if of
    questions with the fewest samples, which weigh most and show least; one sample shows no variance within its
    question, so questions with one vary as binomial ones.
    """
    from scipy.special import ndtri

    questions, fewest = shares.shape[-1], samples.min()
    mean = shares.mean(axis=-1)
    single = samples == 1
    within = (shares * (1 - shares) / np.maximum(samples - 1, 1)).sum(axis=-1)
    if single.any():
        alone = shares[..., single].mean(axis=-1)
        within = within + single.sum() * alone * (1 - alone)
    unseen = ndtri((1 + level) / 2) ** 2 / 2 / fewest**2
    size = mean * (1 - mean) * questions**2 / (within + unseen)
    return np.asarray(np.maximum(questions * fewest, size))
