from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from dft_sweeps.evaluation.paired import compare, compare_average, difference_bounds, holm, max_t, sign_flip
from dft_sweeps.evaluation.power import smallest_difference
from tests.evaluation.simulated import Array


def paired_counts(
    rng: np.random.Generator,
    questions: int,
    samples: int,
    accuracies: tuple[float, float],
    runs: int,
    correlation: float = 0.5,
    likeness: float = 0.8,
) -> tuple[Array, Array]:
    """Right samples [runs, questions] of two trials; difficulties are beta distributed.

    A share `likeness` of the questions has the same rank of difficulty in both, which is then also the correlation
    of the difficulties where the accuracies are equal.
    """
    from scipy.special import betaincinv

    grid, strength = np.linspace(0, 1, 2001), (1 - correlation) / correlation
    ranks, right = rng.random((runs, questions)), []
    for accuracy in accuracies:
        chances = np.interp(ranks, grid, betaincinv(accuracy * strength, (1 - accuracy) * strength, grid))
        right.append(rng.binomial(samples, chances).astype(float))
        ranks = np.where(rng.random(ranks.shape) < likeness, ranks, rng.random(ranks.shape))
    return right[0], right[1]


def test_exact_p_value_equals_scipy_and_enumeration() -> None:
    rng = np.random.default_rng(0)
    for questions in (2, 5, 11):
        differences = rng.integers(-4, 5, questions) / 4
        by_scipy = stats.permutation_test(
            (differences,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
        ).pvalue
        sums = [
            abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
            for signs in product((-1, 1), repeat=questions)
        ]
        enumerated = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)
        assert sign_flip(differences, 4) == pytest.approx(enumerated)
        assert sign_flip(differences, 4) == pytest.approx(by_scipy)


def test_monte_carlo_agrees_with_the_exact_value_and_is_never_zero() -> None:
    differences = np.random.default_rng(1).integers(-3, 5, 60) / 16
    exact = sign_flip(differences, 16)
    assert sign_flip(differences) == pytest.approx(exact, abs=5 * np.sqrt(exact / 20_000))
    assert sign_flip(differences, seed=1) != sign_flip(differences, seed=2)
    assert sign_flip(np.full(200, 0.3)) == 1 / 20_000
    assert sign_flip(np.zeros(5)) == sign_flip(np.zeros(5), 4) == 1.0


@pytest.mark.parametrize(("accuracy", "samples"), [(0.07, 16), (0.38, 4), (0.5, 1)])
def test_false_positives_of_equal_trials(accuracy: float, samples: int) -> None:
    """At most 5%: four standard errors of 2000 comparisons are 1.9 points."""
    a, b = paired_counts(np.random.default_rng(5), 40, samples, (accuracy, accuracy), 2000)
    p_values = np.array([sign_flip(row, samples) for row in (a - b) / samples])
    assert np.mean(p_values <= 0.05) <= 0.05 + 0.019
    assert np.mean(p_values <= 0.05) >= 0.01  # It is a test, not a refusal.


def test_smallest_differences_of_the_paper_and_their_power() -> None:
    assert smallest_difference(30, 16, 0.07) == pytest.approx(0.067, abs=0.0005)
    assert smallest_difference(40, 16, 0.38) == pytest.approx(0.110, abs=0.0005)
    assert smallest_difference(30, 16, 0.07, fixed_list=True) == pytest.approx(0.033, abs=0.0005)
    assert smallest_difference(500, 16, 0.64) < smallest_difference(500, 4, 0.64)
    # The sign-flip test finds such a difference about as often as the formula says, which is a normal limit.
    rng = np.random.default_rng(6)
    for questions, accuracy in ((40, 0.38), (272, 0.21)):
        difference = smallest_difference(questions, 16, accuracy)
        around = (accuracy + difference / 2, accuracy - difference / 2)
        a, b = paired_counts(rng, questions, 16, around, 800)
        found = np.mean([sign_flip(row, 16) <= 0.05 for row in (a - b) / 16])
        assert 0.7 <= found <= 0.9


@pytest.mark.parametrize(
    "wrong",
    [{"questions": 0}, {"samples": 0}, {"accuracy": 1.0}, {"power": 1.0}, {"likeness": 1.5}, {"correlation": -0.1}],
)
def test_power_refuses_impossible_assumptions(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must lie|at least one"):
        smallest_difference(**({"questions": 30, "samples": 16, "accuracy": 0.1} | wrong))  # type: ignore[arg-type]


def test_coverage_of_the_difference_for_new_questions() -> None:
    rng = np.random.default_rng(3)
    for questions, samples in ((30, 1), (30, 16), (40, 4), (272, 4)):
        for accuracies in ((0.02, 0.02), (0.02, 0.07), (0.2, 0.38), (0.5, 0.5), (0.93, 0.98)):
            for correlation, likeness in ((0.3, 0.5), (0.8, 0.95)):
                a, b = paired_counts(rng, questions, samples, accuracies, 1000, correlation, likeness)
                sizes = np.full(questions, float(samples))
                _, low, high = difference_bounds(a, sizes, b, sizes)
                truth = accuracies[0] - accuracies[1]
                assert np.mean((low <= truth) & (truth <= high)) >= 0.93


def test_coverage_of_the_difference_on_a_fixed_list() -> None:
    rng = np.random.default_rng(4)
    for questions, samples in ((30, 1), (30, 4), (272, 16)):
        for strengths in ((0.05, 0.6), (0.5, 0.5)):
            chances = rng.beta(*strengths, (2, questions))
            a, b = (rng.binomial(samples, each, (2000, questions)).astype(float) for each in chances)
            sizes = np.full(questions, float(samples))
            _, low, high = difference_bounds(a, sizes, b, sizes, kind="fixed_list")
            truth = chances[0].mean() - chances[1].mean()
            assert np.mean((low <= truth) & (truth <= high)) >= 0.93


def test_compare() -> None:
    a, b = [[True, True]] * 9 + [[False, False]], [[True, False]] * 9 + [[False, False]]
    found = compare(a, b)
    assert found.difference == pytest.approx(0.45)
    assert found.p_value == pytest.approx(2 / 2**9)
    assert -1 <= found.low < found.difference < found.high <= 1
    mirrored = compare(b, a)
    assert (-mirrored.high, -mirrored.low, mirrored.p_value) == pytest.approx((found.low, found.high, found.p_value))
    same = compare(a, a)
    assert same.p_value == 1.0
    assert same.low < 0 < same.high
    # Rows of 2 against 3 samples are compared by their shares.
    assert compare([[True, False]], [[True, False, False]]).difference == pytest.approx(1 / 6)
    with pytest.raises(ValueError, match="same questions"):
        compare(a, b[:5])


def test_compare_average_weighs_benchmarks_equally() -> None:
    rng = np.random.default_rng(8)
    large = ((rng.random((200, 4)) < 0.6).tolist(), (rng.random((200, 4)) < 0.4).tolist())
    small = ((rng.random((30, 4)) < 0.5).tolist(), (rng.random((30, 4)) < 0.5).tolist())
    one, two, both = compare(*large), compare(*small), compare_average([large, small])
    assert both.difference == pytest.approx((one.difference + two.difference) / 2)
    assert both.high - both.low < (two.high - two.low) * 0.6
    assert both.p_value == compare_average([large, small]).p_value < 0.05
    with pytest.raises(ValueError, match="no benchmarks"):
        compare_average([])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_max_t_of_one_is_the_plain_test_and_of_copies_costs_nothing() -> None:
    differences = np.random.default_rng(9).normal(0.25, 1, 50)
    [alone] = max_t(differences[:, None])
    assert alone == pytest.approx(sign_flip(differences), abs=0.01)
    assert max_t(np.repeat(differences[:, None], 5, axis=1)) == pytest.approx([alone] * 5)
    assert max_t(np.zeros((4, 2))) == [1.0, 1.0]


def test_max_t_bounds_false_claims_in_the_family_and_is_less_strict_than_holm() -> None:
    rng = np.random.default_rng(10)
    false, sums = 0, np.zeros(2)
    for _ in range(150):
        shared = rng.normal(0, 1, (40, 1))
        differences = shared + 0.5 * rng.normal(0, 1, (40, 6))
        adjusted = max_t(differences)
        corrected = holm([2 * stats.norm.sf(abs(t)) for t in differences.sum(0) / np.sqrt((differences**2).sum(0))])
        false += min(adjusted) <= 0.05
        sums += (sum(adjusted), sum(corrected))
    assert false / 150 <= 0.05 + 0.05
    assert sums[0] < sums[1]
