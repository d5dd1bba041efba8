"""Sampling in rounds until an interval is narrow enough, or until one trial is above another.

Every question gets equally many samples, which keeps the accuracy unbiased. After each round of a fixed
schedule the interval is looked at, at a level raised so that all the looks' intervals hold together with the
wanted level (Pocock 1977): stopping at any of them, for any reason, is valid. Functions of the verdicts so far;
no state is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal

import numpy as np

from dft_sweeps.evaluation.intervals import LEVEL, Array, Interval, Kind, counts, interval
from dft_sweeps.evaluation.paired import Rows, difference_bounds


@dataclass(frozen=True)
class Step:
    """What to do after a round of one trial's samples."""

    more: tuple[int, ...]
    """Samples to add, one number per question; all 0 when done."""
    interval: Interval | None
    """Holds at every look together; None before the first round."""

    @property
    def done(self) -> bool:
        return not any(self.more)


@dataclass(frozen=True)
class VerdictStep:
    """What to do after a round of two trials' samples."""

    more: tuple[int, ...]
    """Samples to add for each trial, one number per question; all 0 when done."""
    difference: float
    low: float
    high: float
    """Accuracy of A minus that of B, and bounds that hold at every look together; shares in [-1, 1]."""
    verdict: Literal["above", "below"] | None
    """Of A relative to B; None: not settled, at the end of the schedule too."""

    @property
    def done(self) -> bool:
        return not any(self.more)


def looks(maximum: int) -> tuple[int, ...]:
    """Samples per question after each round: 1, 2, 3, 4, 6, 8, 12, 16, 24, ... and at last `maximum`.

    Each adds a third to a half, so that little is sampled in vain, and they are few, so that little is lost to the
    raised level.
    """
    if maximum < 1:
        raise ValueError(f"adaptive sampling needs at least one sample per question, got a maximum of {maximum}")
    powers = [2**power for power in range(maximum.bit_length())]
    grid = sorted({*powers, *(3 * each for each in powers)} | {maximum})
    return tuple(size for size in grid if size <= maximum)


def next_round(
    per_question_correct: Rows,
    half_width: float,
    maximum: int,
    level: float = LEVEL,
    kind: Kind = "fixed_list",
) -> Step:
    """How many more samples each question needs until the interval's half-width is at most `half_width`.

    Args:
        per_question_correct: verdicts so far, all rows equally long; empty rows before the first round.
        half_width: a share (1.0 point is 0.01).
        maximum: samples per question at which sampling ends, reached or not (compare `interval.half_width`).

    Raises:
        ValueError: no questions, or rows whose length is none of `looks(maximum)`.
    """
    if half_width <= 0:
        raise ValueError(f"a half-width must be positive, got {half_width}")
    samples = _common_length(per_question_correct, maximum)
    if samples == 0:
        return Step(_more(per_question_correct, samples, maximum), None)
    found = interval(per_question_correct, look_level(looks(maximum), level), kind)
    done = found.half_width <= half_width
    return Step((0,) * len(per_question_correct) if done else _more(per_question_correct, samples, maximum), found)


def next_round_of_two(a: Rows, b: Rows, maximum: int, level: float = LEVEL, kind: Kind = "fixed_list") -> VerdictStep:
    """How many more samples each question needs, from both trials, until one is known to be above the other.

    The chance of a wrong verdict over the whole path is at most 1 - level.

    Args:
        a, b: as in `next_round`, the same questions in the same order and equally many samples.
    """
    samples = _common_length([*a, *b], maximum)
    if len(a) != len(b):
        raise ValueError(f"a paired comparison needs the same questions, got {len(a)} and {len(b)}")
    if samples == 0:
        return VerdictStep(_more(a, samples, maximum), 0.0, -1.0, 1.0, None)
    sides = difference_bounds(*counts(a), *counts(b), look_level(looks(maximum), level), kind)
    difference, low, high = map(float, sides)
    verdict: Literal["above", "below"] | None = "above" if low > 0 else "below" if high < 0 else None
    more = (0,) * len(a) if verdict else _more(a, samples, maximum)
    return VerdictStep(more, difference, low, high, verdict)


@cache
def look_level(times: tuple[int, ...], level: float = LEVEL) -> float:
    """The level of each look's interval at which all of them hold together with chance `level`.

    Means after `times` samples are correlated as Brownian motion at those times; the chance that none leaves its
    interval is integrated look by look (Armitage, McPherson and Rowe 1969). For new questions looks are more alike
    than that, so it is cautious there.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtr, ndtri

    alone, together = -ndtri((1 - level) / 2), -ndtri((1 - level) / (2 * len(times)))
    if len(times) == 1:
        return level
    limit = brentq(lambda limit: _chance_inside(limit, times) - level, alone, together, xtol=1e-6)
    return float(2 * ndtr(limit) - 1)


def _chance_inside(limit: float, times: Sequence[int]) -> float:
    """Chance that the standardised mean stays within +-limit at all times."""
    nodes, weights = np.polynomial.legendre.leggauss(96)
    points, weights = limit * nodes, limit * weights
    density: Array = np.exp(-(points**2) / 2) / np.sqrt(2 * np.pi)
    for before, after in pairwise(times):
        kept, fresh = np.sqrt(before / after), np.sqrt(1 - before / after)
        steps = (points[:, None] - kept * points) / fresh
        density = np.exp(-(steps**2) / 2) / (fresh * np.sqrt(2 * np.pi)) @ (weights * density)
    return float(weights @ density)


def _common_length(rows: Rows, maximum: int) -> int:
    lengths = {len(row) for row in rows}
    if len(lengths) != 1:
        raise ValueError(f"adaptive sampling needs questions with equally many samples, got {sorted(lengths)}")
    [length] = lengths
    if length and length not in looks(maximum):
        raise ValueError(f"{length} samples per question are none of the schedule {looks(maximum)}")
    return length


def _more(rows: Rows, samples: int, maximum: int) -> tuple[int, ...]:
    after = next((look for look in looks(maximum) if look > samples), samples)
    return (after - samples,) * len(rows)
