from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dft_sweeps.evaluation.intervals import Interval, average, bounds, interval

SIMULATIONS = 1500
ACCURACIES = (0.02, 0.05, 0.1, 0.2, 0.38, 0.5, 0.64, 0.8, 0.93, 0.98)
CELLS = [
    (questions, samples, correlation, accuracy)
    for questions in (30, 40, 150, 272, 500)
    for samples, correlations in ((1, (0.5,)), (4, (0.2, 0.5, 0.8)), (16, (0.2, 0.5, 0.8)))
    for correlation in correlations
    for accuracy in ACCURACIES
]


def moments(
    rng: np.random.Generator, questions: int, samples: int, correlation: float, accuracy: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased variance of the questions' accuracies in each simulated, beta-binomial evaluation."""
    strength = (1 - correlation) / correlation
    of_questions = rng.beta(accuracy * strength, (1 - accuracy) * strength, (SIMULATIONS, questions))
    shares = rng.binomial(samples, of_questions) / samples
    return shares.mean(axis=1), shares.var(axis=1, ddof=1)


def test_coverage_of_the_interval() -> None:
    """At least 93% everywhere, at most 97% where questions are many and accuracies moderate.

    1500 evaluations a cell have a standard error of 0.6 points, so over 350 cells a method that covers
    exactly 94.5% in its worst ones stays above 92.8%; the plain cluster interval covers 44% in its worst
    cell.
    """
    rng = np.random.default_rng(20250805)
    covered = {}
    for cell in CELLS:
        mean, variance = moments(rng, *cell)
        low, high = bounds(mean, variance, *cell[:2])
        covered[cell] = np.mean((low <= cell[3]) & (cell[3] <= high))
    assert min(covered.values()) >= 0.93, min(covered, key=covered.__getitem__)
    moderate = [cover for (n, _, _, p), cover in covered.items() if n >= 272 and 0.2 <= p <= 0.8]
    assert np.mean(moderate) <= 0.96
    assert max(moderate) <= 0.97


def test_coverage_of_the_average_over_benchmarks() -> None:
    """The paper's five sizes, at its accuracies for base, SFT and DFT policies."""
    rng = np.random.default_rng(7)
    sizes = (500, 272, 675, 30, 40)
    policies = ((0.31, 0.09, 0.16, 0.04, 0.19), (0.65, 0.21, 0.27, 0.07, 0.38), (0.02,) * 5)
    for accuracies in policies:
        for samples, correlation in ((1, 0.5), (16, 0.2), (16, 0.8)):
            parts = [moments(rng, n, samples, correlation, p) for n, p in zip(sizes, accuracies, strict=True)]
            sides = [(mean, *bounds(mean, v, n, samples)) for (mean, v), n in zip(parts, sizes, strict=True)]
            averages = [
                average([Interval(mean[k], low[k], high[k], "") for mean, low, high in sides])
                for k in range(SIMULATIONS)
            ]
            truth = np.mean(accuracies)
            assert np.mean([each.low <= truth <= each.high for each in averages]) >= 0.93


def test_narrower_than_counting_questions_as_single_answers() -> None:
    """Clopper-Pearson at the number of questions is safe too; this must be better where samples say more."""
    rng = np.random.default_rng(1)
    for accuracy, share in ((0.07, 0.93), (0.38, 0.87)):
        mean, variance = moments(rng, 40, 16, 0.5, accuracy)
        low, high = bounds(mean, variance, 40, 16)
        low_one, high_one = bounds(mean, variance, 40, 1)
        assert np.mean(high - low) < share * np.mean(high_one - low_one)


def test_golden_intervals() -> None:
    one_sample = interval([[True]] * 8 + [[False]] * 2)
    # Clopper-Pearson for 8 of 10.
    assert (one_sample.low, one_sample.high) == pytest.approx((0.443905, 0.974789), abs=1e-6)
    assert interval([[True]] * 8 + [[False]] * 2, level=0.9).low == pytest.approx(0.493099, abs=1e-6)
    nothing = interval([[False] * 16] * 30)
    assert (nothing.mean, nothing.low) == (0.0, 0.0)
    assert nothing.high == pytest.approx(1 - 0.025 ** (1 / (30 * 16 / 13)), abs=1e-9)
    assert nothing.method == "clustered Clopper-Pearson 95%"


def test_samples_that_always_agree_add_nothing() -> None:
    once = interval([[True]] * 40 + [[False]] * 60)
    often = interval([[True] * 8] * 40 + [[False] * 8] * 60)
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=0.003)


answers = st.integers(1, 4).flatmap(
    lambda k: st.lists(st.lists(st.booleans(), min_size=k, max_size=k), min_size=1, max_size=30)
)


@given(answers)
def test_bounds_enclose_the_mean_and_mirror_when_right_and_wrong_swap(rows: list[list[bool]]) -> None:
    result = interval(rows)
    swapped = interval([[not value for value in row] for row in rows])
    assert 0 <= result.low <= result.mean <= result.high <= 1
    assert result.mean == pytest.approx(np.mean(rows))
    assert (1 - swapped.high, 1 - swapped.low) == pytest.approx((result.low, result.high), abs=1e-9)


def test_average_of_one_is_itself_and_of_two_equals_is_narrower() -> None:
    one = interval([[True]] * 10 + [[False]] * 30)
    same = average([one])
    assert (same.mean, same.low, same.high) == pytest.approx((one.mean, one.low, one.high))
    two = average([one, one])
    assert two.high - two.low == pytest.approx((one.high - one.low) / np.sqrt(2))


@pytest.mark.parametrize("rows", [[], [[]], [[True], [True, False]]])
def test_ragged_or_empty_rows_are_refused(rows: list[list[bool]]) -> None:
    with pytest.raises(ValueError, match="equally many samples"):
        interval(rows)


def test_average_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no benchmarks"):
        average([])
