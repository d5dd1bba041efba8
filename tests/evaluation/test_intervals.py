from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dft_sweeps.evaluation.intervals import (
    Interval,
    average,
    binomial_bounds,
    bounds,
    interval,
    over_seeds,
    over_seeds_of_counts,
    seed_counts,
    seed_half_width,
    size_for_new_questions,
)
from tests.evaluation.simulated import SHAPES, Array, difficulties, moments

RUNS = 2000
# The method treats right and wrong alike, and "hopeless" mirrors "safe": accuracies over 50% repeat those under it.
ACCURACIES = (0.02, 0.035, 0.05, 0.07, 0.1, 0.15, 0.2, 0.38, 0.5)
CELLS = [
    (shape, questions, samples, correlation, accuracy)
    for questions in (30, 40, 272, 500)
    for samples, correlations, shapes in (
        (1, (0.5,), ("beta",)),
        (4, (0.2, 0.5, 0.8), SHAPES),
        (16, (0.2, 0.5, 0.8), SHAPES),
    )
    for shape in shapes
    for correlation in correlations
    for accuracy in ACCURACIES
]


def new_question_bounds(mean: Array, variance: Array, questions: int, samples: int) -> tuple[Array, Array]:
    return binomial_bounds(mean, size_for_new_questions(mean, variance, questions, samples), 0.95)


def test_coverage_for_new_questions() -> None:
    """At least 93% everywhere, at most 97% where questions are many and accuracies moderate.

    2000 evaluations a cell have a standard error of 0.5 points: over 1100 cells a method that covers exactly
    94.5% in the worst ones stays above 92.8%. The plain cluster interval covers 40% in its worst cell.
    """
    rng = np.random.default_rng(20250805)
    covered = {}
    for cell in CELLS:
        shape, questions, samples, correlation, accuracy = cell
        mean, variance = moments(rng, shape, questions, samples, correlation, accuracy, RUNS)
        low, high = new_question_bounds(mean, variance, questions, samples)
        covered[cell] = np.mean((low <= accuracy) & (accuracy <= high))
    assert min(covered.values()) >= 0.93, min(covered, key=covered.__getitem__)
    moderate = {cell: cover for cell, cover in covered.items() if cell[1] >= 272 and cell[4] >= 0.2}
    assert np.mean(list(moderate.values())) <= 0.96
    assert max(moderate.values()) <= 0.97, max(moderate, key=moderate.__getitem__)


def test_exact_coverage_of_one_sample_per_question() -> None:
    from scipy.stats import binom

    for questions in (30, 40, 272, 500):
        right, accuracies = np.arange(questions + 1), np.linspace(0.02, 0.98, 193)
        low, high = binomial_bounds(right / questions, np.full(questions + 1, float(questions)), 0.95)
        inside = (low[:, None] <= accuracies) & (accuracies <= high[:, None])
        covered = (inside * binom.pmf(right[:, None], questions, accuracies)).sum(axis=0)
        assert covered.min() >= 0.944
        assert covered[(accuracies > 0.2) & (accuracies < 0.8)].max() <= (0.97 if questions >= 272 else 0.985)


@pytest.mark.parametrize("samples", [1, 2, 4, 16])
def test_coverage_for_a_fixed_list(samples: int) -> None:
    """Questions are drawn once, samples 1000 times; at least 93% for every list, and narrow where it can be."""
    rng = np.random.default_rng(samples)
    covered, widths, binomial_widths = [], [], []
    for questions in (30, 272):
        for shape in SHAPES:
            for correlation in (0.2, 0.5, 0.8):
                for accuracy in (0.02, 0.07, 0.2, 0.5, 0.8):
                    chances = difficulties(rng, shape, correlation, accuracy, questions)
                    right = rng.binomial(samples, chances, (1000, questions)).astype(float)
                    mean, low, high = bounds(right, np.full(questions, float(samples)), kind="fixed_list")
                    truth = chances.mean()
                    # A list without a solvable question is measured exactly, but for rounding.
                    covered.append(np.mean((low <= truth + 1e-9) & (truth - 1e-9 <= high)))
                    widths.append(np.mean(high - low))
                    low, high = binomial_bounds(mean, np.full(1000, float(questions * samples)), 0.95)
                    binomial_widths.append(np.mean(high - low))
    # 1000 samplings have a standard error of 0.7 points, of which the least of 150 lists takes two and a half.
    assert min(covered) >= 0.93 - 0.005
    assert np.mean(covered) >= 0.95
    assert np.sum(widths) <= {1: 1.0, 2: 0.86, 4: 0.82, 16: 0.75}[samples] * np.sum(binomial_widths)


@pytest.mark.parametrize(
    "list_",
    [
        ((28, 16), (2, 1)),
        ((20, 1), (20, 64)),
        ((29, 64), (1, 1)),
        ((260, 16), (12, 2)),
        ((15, 3), (15, 16)),
        ((136, 1), (136, 16)),
        ((10, 1), (10, 4), (10, 16)),
    ],
)
def test_coverage_for_a_fixed_list_of_questions_with_unequal_samples(list_: tuple[tuple[int, int], ...]) -> None:
    """Pairs of (questions, samples). Questions with few samples may be unlike those with many."""
    rng = np.random.default_rng(8)
    samples = np.concatenate([np.full(questions, float(each)) for questions, each in list_])
    for accuracies in product((0.0, 0.02, 0.1, 0.5, 0.9, 1.0), repeat=2):
        parts = zip(list_, (*accuracies, 0.5), strict=False)
        chances = np.concatenate([np.full(questions, each) for (questions, _), each in parts])
        _, low, high = bounds(rng.binomial(samples.astype(int), chances, (2000, len(samples))).astype(float), samples,
                              kind="fixed_list")  # fmt: skip
        assert np.mean((low <= chances.mean() + 1e-9) & (chances.mean() - 1e-9 <= high)) >= 0.93, accuracies


def test_coverage_of_the_average_over_benchmarks() -> None:
    """The paper's five sizes, at its accuracies for base, SFT and DFT policies."""
    rng = np.random.default_rng(7)
    sizes = (500, 272, 675, 30, 40)
    policies = ((0.31, 0.09, 0.16, 0.04, 0.19), (0.65, 0.21, 0.27, 0.07, 0.38), (0.02,) * 5)
    for accuracies in policies:
        for samples, correlation in ((1, 0.5), (16, 0.2), (16, 0.8)):
            parts = [
                moments(rng, "beta", n, samples, correlation, p, 1500) for n, p in zip(sizes, accuracies, strict=True)
            ]
            sides = [
                (mean, *new_question_bounds(mean, variance, n, samples))
                for (mean, variance), n in zip(parts, sizes, strict=True)
            ]
            averages = [
                average([Interval(mean[k], low[k], high[k], "") for mean, low, high in sides]) for k in range(1500)
            ]
            truth = np.mean(accuracies)
            assert np.mean([each.low <= truth <= each.high for each in averages]) >= 0.93


@pytest.mark.parametrize("kind", ["new_questions", "fixed_list"])
def test_coverage_over_seeds(kind: str) -> None:
    """Three seeds whose logits of difficulty shift by a common amount each; the target is the mean over seeds."""
    rng = np.random.default_rng(11)
    shifts, logits = rng.normal(0, 0.5, (300_000, 1)), np.array([-4.0, -1.0, 0.0, 2.0])
    truth = (1 / (1 + np.exp(-logits - shifts))).mean()
    hits = []
    for _ in range(400):
        drawn = np.repeat(logits, 15) if kind == "fixed_list" else rng.choice(logits, 60)
        chances = 1 / (1 + np.exp(-drawn - rng.normal(0, 0.5, (3, 1))))
        found = over_seeds((rng.random((3, 60, 4)) < chances[..., None]).tolist(), kind=kind)  # type: ignore[arg-type]
        hits.append(found.low <= truth <= found.high)
    assert np.mean(hits) >= 0.93


def test_coverage_over_seeds_of_an_average_whose_benchmarks_share_the_seeds_shift() -> None:
    """Seeds good on one benchmark are good on the other: intervals by benchmark, averaged, cover 88% here."""
    rng = np.random.default_rng(12)
    logits = rng.normal(0, 1.5, 300)
    truth = (1 / (1 + np.exp(-logits - rng.normal(0, 0.5, (20_000, 1))))).mean()
    hits, averaged = [], []
    for _ in range(400):
        chances = 1 / (1 + np.exp(-logits - rng.normal(0, 0.5, (4, 1))))
        right, samples = rng.binomial(8, chances).astype(float), np.full((4, 300), 8.0)
        halves = [(right[:, part], samples[:, part]) for part in (slice(0, 150), slice(150, 300))]
        found = over_seeds_of_counts(halves, kind="fixed_list")
        hits.append(found.low <= truth <= found.high)
        apart = average([over_seeds_of_counts([half], kind="fixed_list") for half in halves])
        averaged.append(apart.low <= truth <= apart.high)
    assert np.mean(hits) >= 0.93
    assert np.mean(averaged) < 0.9


def test_seeds_weigh_alike_whatever_their_samples() -> None:
    few, many = [[True]] * 10, [[False] * 9] * 10
    assert over_seeds([few, many]).mean == pytest.approx(0.5)
    t = 12.706204736432095  # of one degree of freedom
    assert seed_half_width(np.array([0.4, 0.5])) == pytest.approx(t * 0.05)


def test_narrower_than_counting_questions_as_single_answers() -> None:
    """Clopper-Pearson at the number of questions is safe too; this must be better where samples say more."""
    rng = np.random.default_rng(1)
    for accuracy, share in ((0.07, 0.9), (0.38, 0.85)):
        mean, variance = moments(rng, "beta", 40, 16, 0.5, accuracy, RUNS)
        low, high = new_question_bounds(mean, variance, 40, 16)
        low_one, high_one = binomial_bounds(mean, np.full(RUNS, 40.0), 0.95)
        assert np.mean(high - low) < share * np.mean(high_one - low_one)


def test_intervals_against_scipy() -> None:
    from scipy.stats import beta

    rows = [[True]] * 8 + [[False]] * 2
    found = interval(rows)
    assert (found.low, found.high) == pytest.approx((beta.ppf(0.025, 8.15, 2.85), beta.ppf(0.975, 8.85, 2.15)))
    # With one sample the list's questions could be anything: both kinds agree.
    fixed = interval(rows, kind="fixed_list")
    assert (fixed.low, fixed.high, fixed.kind) == (found.low, found.high, "fixed_list")
    assert interval(rows, level=0.9).low == pytest.approx(beta.ppf(0.05, 8.15, 2.85))
    nothing = interval([[False] * 16] * 30)
    assert (nothing.mean, nothing.low, nothing.half_width) == (0.0, 0.0, nothing.high)
    assert nothing.high == pytest.approx(beta.ppf(0.975, 0.85, 480 / 13 + 0.15))
    assert interval([[False] * 16] * 30, kind="fixed_list").high == pytest.approx(beta.ppf(0.975, 0.85, 480.15))


def test_samples_that_always_agree_add_nothing_for_new_questions_and_nearly_settle_a_fixed_list() -> None:
    once = interval([[True]] * 40 + [[False]] * 60)
    often = interval([[True] * 8] * 40 + [[False] * 8] * 60)
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=0.005)
    assert interval([[True] * 8] * 40 + [[False] * 8] * 60, kind="fixed_list").half_width < 0.005


answers = st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=30)


@given(answers, st.sampled_from(["new_questions", "fixed_list"]))
def test_bounds_enclose_the_mean_and_mirror_when_right_and_wrong_swap(rows: list[list[bool]], kind: str) -> None:
    result = interval(rows, kind=kind)  # type: ignore[arg-type]
    swapped = interval([[not value for value in row] for row in rows], kind=kind)  # type: ignore[arg-type]
    assert 0 <= result.low <= result.mean <= result.high <= 1
    assert result.mean == pytest.approx(np.mean([np.mean(row) for row in rows]))
    assert (1 - swapped.high, 1 - swapped.low) == pytest.approx((result.low, result.high), abs=1e-9)


def test_average_of_one_is_itself_and_of_two_equals_is_narrower() -> None:
    one = interval([[True]] * 10 + [[False]] * 30)
    same = average([one])
    assert (same.mean, same.low, same.high) == pytest.approx((one.mean, one.low, one.high))
    two = average([one, one])
    assert two.high - two.low == pytest.approx((one.high - one.low) / np.sqrt(2))


@pytest.mark.parametrize("rows", [[], [[]], [[True], []]])
def test_empty_rows_are_refused(rows: list[list[bool]]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        interval(rows)


def test_what_cannot_be_joined_is_refused() -> None:
    rows = [[True, False], [True, True]]
    with pytest.raises(ValueError, match="no benchmarks"):
        average([])
    with pytest.raises(ValueError, match="cannot be averaged"):
        average([interval(rows), interval(rows, kind="fixed_list")])
    with pytest.raises(ValueError, match="two seeds"):
        over_seeds([rows])
    with pytest.raises(ValueError, match="same questions"):
        over_seeds([rows, rows[:1]])
    with pytest.raises(ValueError, match="two seeds"):
        seed_half_width(np.array([0.5]))
    assert [each.shape for each in seed_counts([rows, rows, rows])] == [(3, 2), (3, 2)]
