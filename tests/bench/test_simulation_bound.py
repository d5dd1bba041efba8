"""The lower bound, against the best of all schedules of small sweeps."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dft_sweeps.spec.makespan import Evaluation, TrialTimes, makespan
from tests.bench.simulation_bound import busiest_slot, lower_bound, of_all_gpus
from tests.bench.simulation_services import Speeds
from tests.bench.simulation_trials import Length

SPEEDS = Speeds(samples_per_s=1.0, completions_per_s=1.0, workers_start_s=20.0, swap_s=0.0)


def test_equal_trials_come_in_whole_rounds() -> None:
    assert busiest_slot([10.0] * 4, 3) == 20.0
    assert busiest_slot([10.0] * 1000, 310) == 40.0
    assert busiest_slot([9.0, 3.0, 3.0], 2) == 9.0
    assert busiest_slot([3.0] * 6, 2) == 9.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.5, 20.0), min_size=1, max_size=6), st.integers(1, 3))
def test_no_assignment_of_work_to_slots_beats_it(seconds: list[float], slots: int) -> None:
    best = min(
        max(sum(each for each, slot in zip(seconds, chosen, strict=True) if slot == of) for of in range(slots))
        for chosen in itertools.product(range(slots), repeat=len(seconds))
    )
    assert busiest_slot(seconds, slots) <= best + 1e-9
    assert busiest_slot(seconds, slots) >= max(max(seconds), sum(seconds) / slots) - 1e-9


def test_trials_that_end_together_leave_their_evaluation_to_the_end() -> None:
    """6 equal trials on 3 slots: until the second round ends, 3 of the last checkpoints are there at the most."""
    lengths = [Length(0.0, 100.0, 0.0)] * 6
    assert lower_bound(lengths, 3, [30.0] * 7, 1, SPEEDS).slots == 20 + 200 + 3 * 30
    assert lower_bound(lengths, 3, [30.0] * 7, 2, SPEEDS).slots == 20 + 200 + 3 * 15


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(1.0, 30.0), min_size=1, max_size=4),
    st.floats(0.5, 20.0),
    st.integers(1, 3),
    st.integers(1, 2),
)
def test_no_order_of_trials_beats_it(trains: list[float], generation: float, slots: int, engines: int) -> None:
    """Against list scheduling of the same trials in every order; the base model is evaluated once."""
    lengths = [Length(2.0, train, 0.0) for train in trains]
    bound = lower_bound(lengths, slots, [generation] * (len(trains) + 1), engines, SPEEDS)
    spans = []
    for order in itertools.permutations(lengths):
        times = [TrialTimes(2.0, each.train, (Evaluation(0.0, 0.0), Evaluation(1.0, generation))) for each in order]
        times[0] = replace(times[0], evaluations=(Evaluation(0.0, generation), Evaluation(1.0, generation)))
        spans.append(makespan(times, slots, engines, workers_start=20.0))
    assert bound.seconds <= min(spans) + 1e-9
    assert of_all_gpus(lengths, [generation] * (len(trains) + 1), slots + engines, SPEEDS) <= min(spans) + 1e-9


def test_it_names_what_holds_the_sweep_back() -> None:
    trials = [Length(0.0, 100.0, 0.0)] * 8
    assert lower_bound(trials, 4, [1.0] * 9, 1, SPEEDS).what == "slots"
    assert lower_bound(trials, 4, [100.0] * 33, 1, SPEEDS).what == "engines"
    assert lower_bound([*trials, Length(0.0, 900.0, 0.0)], 4, [1.0] * 9, 1, SPEEDS).seconds == pytest.approx(921.0)
