"""List scheduling against what can be said of any schedule, and against schedules worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dft_sweeps.spec.makespan import Evaluation, Growth, TrialTimes, makespan

TIME = st.floats(0.0, 50.0)
POINTS = st.lists(st.builds(Evaluation, st.floats(0.0, 1.0), TIME), max_size=4).map(
    lambda points: tuple(sorted(points))
)
TRIALS = st.lists(st.builds(TrialTimes, TIME, TIME, POINTS), max_size=6)


def test_checkpoints_that_are_earlier_in_their_curve_go_first() -> None:
    """One engine, busy with the first trial's step 0 until 4; then the second trial's first point goes before the
    first's last, so that the second's last waits for both."""
    first = TrialTimes(0.0, 3.0, (Evaluation(0.0, 4.0), Evaluation(1.0, 5.0)))
    second = TrialTimes(0.0, 4.0, (Evaluation(0.5, 1.0), Evaluation(1.0, 1.0)))
    assert makespan([first, second], 2, 1) == 4 + 1 + 5 + 1
    assert makespan([first, second], 2, 2) == 3 + 5


def test_trials_start_when_another_ends() -> None:
    trials = [TrialTimes(1.0, length, ()) for length in (4.0, 2.0, 1.0, 1.0)]
    assert makespan(trials, 2, 1) == 7
    assert makespan(trials, 1, 1) == 12
    assert makespan([], 3, 1) == 0
    assert makespan(trials, 2, 1, workers_start=10.0) == 17
    assert makespan([], 3, 1, workers_start=10.0) == 0


def test_further_engines_take_the_places_of_trials_that_have_ended() -> None:
    """A trial of 4 s and one of 8 s; the first's three points of 4 s are there at its end."""
    trials = [TrialTimes(0.0, 4.0, (Evaluation(1.0, 4.0),) * 3), TrialTimes(0.0, 8.0, ())]
    spans = [makespan(trials, 2, 1, growth=growth) for growth in (Growth(), Growth(1, 1), Growth(2, 1), Growth(2, 2))]
    assert spans == [16, 12, 12, 8]


@given(TRIALS, st.integers(1, 4), st.integers(1, 3), st.builds(Growth, st.integers(0, 3), st.integers(0, 3)))
def test_within_the_bounds_of_every_schedule(
    trials: list[TrialTimes], concurrent: int, engines: int, growth: Growth
) -> None:
    span = makespan(trials, concurrent, engines, growth=growth)
    held = [trial.start + trial.train for trial in trials]
    evaluating = [each.seconds for trial in trials for each in trial.evaluations]
    assert span >= max([sum(held) / concurrent, sum(evaluating) / (engines + growth.most), *held, *evaluating]) - 1e-6
    assert span <= sum(held) + sum(evaluating) + 1e-6


@given(TRIALS, st.integers(1, 4))
def test_alone_a_trial_takes_as_long_as_in_a_sweep_of_one(trials: list[TrialTimes], concurrent: int) -> None:
    for trial in trials:
        assert makespan([trial], concurrent, 1) == pytest.approx(trial.to_last_point)


def test_what_is_unknown_makes_the_whole_unknown() -> None:
    known = TrialTimes(1.0, 1.0, (Evaluation(1.0, 1.0),))
    assert makespan([known, TrialTimes(1.0, None, ())], 1, 1) is None
    assert makespan([known, TrialTimes(1.0, 1.0, (Evaluation(1.0, None),))], 1, 1) is None
