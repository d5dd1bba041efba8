"""Two cells of several seeds each: the interval holds seeds and questions, the sign-flip test questions alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from dft_sweeps.evaluation.paired import LEAST_P, compare_average, sign_flip
from dft_sweeps.evaluation.paired_seeds import (
    SeedCounts,
    compare_seeds,
    two_level_bounds,
    welch_half_width,
)
from tests.evaluation.simulated import Array


def cell(rng: np.random.Generator, logits: Array, seeds: int, samples: int, spread: float) -> SeedCounts:
    """Seeds shift the logits of all questions by a common amount (standard deviation `spread`) and of each by 0.3."""
    shifts = rng.normal(0, spread, (seeds, 1)) + rng.normal(0, 0.3, (seeds, len(logits)))
    sizes = np.full((seeds, len(logits)), float(samples))
    return rng.binomial(samples, expit(logits + shifts)).astype(float), sizes


@pytest.mark.parametrize("seeds", [3, 5])
def test_coverage_of_the_two_level_interval_and_false_positives_of_the_test_that_knows_no_seeds(seeds: int) -> None:
    """Equally good cells. 400 comparisons have a standard error of 1.1 points, twice that is allowed for."""
    rng = np.random.default_rng(seeds)
    flips: dict[float, list[bool]] = {}
    for questions, samples, middle in ((30, 16, -3.0), (272, 4, -1.0), (500, 16, 0.5)):
        for spread in (0.0, 0.1, 0.4):
            covered = []
            for _ in range(400):
                logits = rng.normal(middle, 2.0, questions)
                a, b = (cell(rng, logits, seeds, samples, spread) for _ in range(2))
                _, low, high = two_level_bounds([(a, b)], 0.95, "new_questions")
                covered.append(low <= 0 <= high)
                differences = (a[0] - b[0]).mean(axis=0)
                z = differences.sum() / np.sqrt((differences**2).sum())
                flips.setdefault(spread, []).append(abs(z) > 1.96)
            assert np.mean(covered) >= 0.93 - 0.022, (questions, spread)
    assert np.mean(flips[0.0]) <= 0.07
    assert np.mean(flips[0.4]) >= 0.5  # What it says of these policies must not be said of other seeds.


def test_coverage_of_an_average_whose_benchmarks_share_the_seeds_shift() -> None:
    """A seed that is good on one benchmark is good on the other: intervals by benchmark, combined as independent
    ones, cover 89% here."""
    rng, covered = np.random.default_rng(0), []
    for _ in range(400):
        shifts = rng.normal(0, 0.5, (2, 4, 1))
        pairs = []
        for questions in (150, 200):
            logits = rng.normal(0, 1.5, questions)
            right = rng.binomial(8, expit(logits + shifts)).astype(float)
            sizes = np.full(right.shape[1:], 8.0)
            pairs.append(((right[0], sizes), (right[1], sizes)))
        _, low, high = two_level_bounds(pairs, 0.95, "new_questions")
        covered.append(low <= 0 <= high)
    assert np.mean(covered) >= 0.93 - 0.022


def test_the_p_value_inverts_the_interval() -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 1, 120)
    pair = (cell(rng, logits + 0.6, 4, 4, 0.2), cell(rng, logits, 3, 4, 0.2))
    found = compare_seeds([pair])
    assert found.difference > 0 and 0.001 < found.p_value < 0.5
    _, low, _ = two_level_bounds([pair], 1 - found.p_value, "new_questions")
    assert low == pytest.approx(0, abs=1e-4)
    assert (found.low > 0) == (found.p_value < 0.05)
    mirrored = compare_seeds([pair[::-1]])
    assert (mirrored.difference, mirrored.p_value) == pytest.approx((-found.difference, found.p_value), rel=1e-3)
    assert (mirrored.spread_b, mirrored.spread_a) == (found.spread_a, found.spread_b)


def test_extremes_of_the_p_value() -> None:
    sizes = np.full((3, 200), 4.0)
    right, wrong = np.full((3, 200), 4.0), np.zeros((3, 200))
    assert compare_seeds([((right, sizes), (wrong, sizes))]).p_value == LEAST_P
    same = compare_seeds([((right, sizes), (right, sizes))])
    assert (same.p_value, same.p_these_seeds) == pytest.approx((1.0, 1.0), abs=1e-3)


def test_seeds_that_agree_leave_the_interval_of_the_questions_and_the_plain_test() -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 1.5, 80)
    a, b = (rng.binomial(6, expit(logits + shift)).astype(float) for shift in (0.3, 0.0))
    twice = [(np.stack([each, each]), np.full((2, 80), 6.0)) for each in (a, b)]
    rows = [[[index < 2 * right for index in range(12)] for right in each] for each in (a, b)]
    found, plain = compare_seeds([(twice[0], twice[1])]), compare_average([(rows[0], rows[1])])
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high))
    assert found.p_these_seeds == pytest.approx(sign_flip((a - b) / 6), abs=0.01)


def test_welch_is_scipys() -> None:
    a, b = np.array([0.81, 0.84, 0.86]), np.array([0.70, 0.78, 0.75, 0.71, 0.77])
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.9)
    assert welch_half_width(a, b, 0.9) == pytest.approx((expected.high - expected.low) / 2)
    assert welch_half_width(a[:1].repeat(3), b[:1].repeat(2)) == 0.0


def test_what_cannot_be_compared_is_refused() -> None:
    one, two = ((np.ones((seeds, 5)), np.full((seeds, 5), 2.0)) for seeds in (1, 2))
    with pytest.raises(ValueError, match="two seeds on both sides"):
        compare_seeds([(two, one)])
    with pytest.raises(ValueError, match="same questions"):
        compare_seeds([(two, (np.ones((2, 4)), np.full((2, 4), 2.0)))])
    with pytest.raises(ValueError, match="no benchmarks"):
        compare_seeds([])
