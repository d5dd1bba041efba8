from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtri

from dft_sweeps.evaluation.adaptive import look_level, looks, next_round, next_round_of_two
from dft_sweeps.evaluation.intervals import Interval, bounds, interval
from dft_sweeps.evaluation.paired import difference_bounds
from tests.evaluation.simulated import SHAPES, Array, difficulties

RUNS = 1500
SCHEDULE = looks(16)
LEVEL = look_level(SCHEDULE)


def sampled(rng: np.random.Generator, chances: Array) -> dict[int, Array]:
    """Right samples [RUNS, questions] at each look."""
    right, taken, at = np.zeros((RUNS, len(chances))), 0, {}
    for samples in SCHEDULE:
        right = right + rng.binomial(samples - taken, chances, right.shape)
        taken, at[samples] = samples, right
    return at


def test_schedule_and_its_levels() -> None:
    assert looks(16) == (1, 2, 3, 4, 6, 8, 12, 16)
    assert looks(1) == (1,)
    assert looks(20) == (1, 2, 3, 4, 6, 8, 12, 16, 20)
    with pytest.raises(ValueError, match="at least one sample"):
        looks(0)
    # Pocock's (1977) constants for 2, 5 and 10 equally spaced looks.
    for number, constant in ((2, 2.178), (5, 2.413), (10, 2.555)):
        assert ndtri((1 + look_level(tuple(range(1, number + 1)))) / 2) == pytest.approx(constant, abs=0.001)
    assert look_level((7,)) == 0.95


def test_the_chance_that_any_look_misses_is_at_most_5_percent() -> None:
    """Over all looks of a path, whenever one stops. Four standard errors of 1500 paths are 2.2 points."""
    rng, missed = np.random.default_rng(1), []
    for questions, accuracies in ((30, (0.07, 0.5)), (150, (0.02, 0.5))):
        sizes = np.ones(questions)
        for shape in SHAPES:
            for correlation in (0.2, 0.8):
                for accuracy in accuracies:
                    chances = difficulties(rng, shape, correlation, accuracy, questions)
                    truth, ever = chances.mean(), np.zeros(RUNS, dtype=bool)
                    for samples, right in sampled(rng, chances).items():
                        _, low, high = bounds(right, samples * sizes, LEVEL, "fixed_list")
                        ever |= (low > truth + 1e-9) | (high < truth - 1e-9)
                    missed.append(ever.mean())
    assert max(missed) <= 0.05 + 0.022
    assert 0.02 <= np.mean(missed) <= 0.05


@pytest.mark.parametrize("kind", ["fixed_list", "new_questions"])
def test_verdicts_on_equal_trials_are_wrong_in_at_most_5_percent_of_paths(kind: str) -> None:
    """Equal on average over the list, not on each question: mirrored and exchanged difficulties."""
    rng, wrong = np.random.default_rng(2), []
    for questions in (30, 150):
        for strengths in ((0.1, 0.4), (1.0, 1.0)):
            chances = rng.beta(*strengths, questions)
            for other in (chances, rng.permutation(chances)):
                a, b, ever = sampled(rng, chances), sampled(rng, other), np.zeros(RUNS, dtype=bool)
                for samples in SCHEDULE:
                    sizes = np.full(questions, float(samples))
                    _, low, high = difference_bounds(a[samples], sizes, b[samples], sizes, LEVEL, kind)  # type: ignore[arg-type]
                    ever |= (low > 0) | (high < 0)
                wrong.append(ever.mean())
    assert max(wrong) <= 0.05 + 0.022
    assert kind == "new_questions" or np.mean(wrong) >= 0.015


def test_verdicts_on_new_questions_hold_for_other_questions() -> None:
    """Equal policies on questions drawn anew: a list may favour one, a verdict for new questions may not."""
    rng, wrong = np.random.default_rng(3), 0
    for _ in range(400):
        a, b = (rng.random((40, 16)) < rng.beta(0.5, 0.5, (40, 1)) for _ in "ab")
        wrong += path_of_two(a, b, "new_questions")[0] is not None
    assert wrong / 400 <= 0.05 + 0.033  # Three standard errors.


def path_of_two(a: Array, b: Array, kind: str = "fixed_list") -> tuple[str | None, int]:
    """Verdict of `next_round_of_two` on trials whose samples are drawn already, and samples per question used."""
    taken = 0
    while True:
        step = next_round_of_two(a[:, :taken].tolist(), b[:, :taken].tolist(), 16, kind=kind)  # type: ignore[arg-type]
        if step.done:
            return step.verdict, taken
        taken += step.more[0]


def path(correct: Array, half_width: float) -> tuple[Interval, int]:
    taken = 0
    while True:
        step = next_round(correct[:, :taken].tolist(), half_width, 16)
        if step.done:
            assert step.interval is not None
            return step.interval, taken
        taken += step.more[0]


def test_samples_saved_at_a_half_width_of_one_point() -> None:
    """500 questions at 64% with the measured correlation 0.72 need about 12 of 16 samples."""
    rng, used = np.random.default_rng(4), []
    for _ in range(15):
        chances = difficulties(rng, "beta", 0.72, 0.64, 500)
        found, taken = path(rng.random((500, 16)) < chances[:, None], 0.01)
        assert found.half_width <= 0.01
        used.append(taken)
    assert np.mean(used) / 16 <= 0.8


def test_a_clear_verdict_takes_a_quarter_of_the_samples_and_equals_that_of_all() -> None:
    """Like SFT against DFT on the embedded task: 80% and 97%."""
    rng, used = np.random.default_rng(5), []
    for _ in range(20):
        a, b = (
            rng.random((128, 16)) < difficulties(rng, "beta", 0.3, accuracy, 128)[:, None] for accuracy in (0.97, 0.8)
        )
        verdict, taken = path_of_two(a, b)
        assert verdict == "above"
        assert path_of_two(b, a) == ("below", taken)
        used.append(taken)
    assert np.mean(used) / 16 <= 0.25


def test_rounds_of_one_trial() -> None:
    nothing = next_round([[]] * 3, 0.01, 16)
    assert (nothing.more, nothing.interval, nothing.done) == ((1, 1, 1), None, False)
    split = [[True, False]] * 3
    step = next_round(split, 0.01, 16)
    assert step.more == (1, 1, 1)
    assert step.interval == interval(split, LEVEL, "fixed_list")
    assert step.interval.half_width > interval(split, kind="fixed_list").half_width
    # At the end of the schedule sampling stops though the interval is wide.
    last = next_round([[True, False] * 8] * 3, 0.01, 16)
    assert last.done
    assert last.interval is not None
    assert last.interval.half_width > 0.01


def test_rounds_of_two_trials() -> None:
    assert next_round_of_two([[]] * 3, [[]] * 3, 4).more == (1, 1, 1)
    equal = next_round_of_two([[True] * 4] * 9, [[True] * 4] * 9, 4)
    assert (equal.done, equal.verdict, equal.difference) == (True, None, 0.0)
    assert equal.low < 0 < equal.high


def test_what_breaks_the_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="none of the schedule"):
        next_round([[True] * 5] * 3, 0.01, 16)
    with pytest.raises(ValueError, match="equally many"):
        next_round([[True], [True, False]], 0.01, 16)
    with pytest.raises(ValueError, match="equally many"):
        next_round([], 0.01, 16)
    with pytest.raises(ValueError, match="positive"):
        next_round([[True]], 0.0, 16)
    with pytest.raises(ValueError, match="same questions"):
        next_round_of_two([[True]], [[True], [True]], 16)
