"""Successive halving against algorithm 2 of the paper as it is printed, and what it owes to a sweep that ends."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dft_sweeps.orchestration.halving import Contender, Halving, Job, Phase

RUNGS = (2, 6, 18)
LAST = 54


def contenders(count: int, group: object = ()) -> list[Contender]:
    return [Contender(f"t-{group}{index:03d}", LAST, group) for index in range(count)]


@dataclass
class Algorithm2:
    """`get_job` as the paper has it, for accuracies: rung k lists (accuracy, configuration) in order of arrival."""

    eta: float
    unseen: list[str]
    rungs: list[list[tuple[float, str]]] = field(default_factory=lambda: [[] for _ in RUNGS])
    promoted: list[set[str]] = field(default_factory=lambda: [set() for _ in RUNGS])

    def get_job(self) -> tuple[str, int] | None:
        for k in range(len(RUNGS) - 1, -1, -1):
            ranked = sorted(self.rungs[k], key=lambda each: (-each[0], each[1]))
            candidates = [name for _, name in ranked[: int(len(ranked) / self.eta + 1e-9)]]
            promotable = [name for name in candidates if name not in self.promoted[k]]
            if promotable:
                self.promoted[k].add(promotable[0])
                return promotable[0], k + 1
        return (self.unseen.pop(0), 0) if self.unseen else None


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 6), st.sampled_from([2.0, 2.5, 3.0, 4.0]))
def test_while_there_are_new_trials_jobs_are_those_of_the_algorithm(
    seed: int, count: int, workers: int, eta: float
) -> None:
    """Workers finish in any order. With as many new trials as the paper always has, every job is the paper's."""
    chance = random.Random(seed)
    names = [trial.training_id for trial in contenders(count)]
    ours, paper = Halving(contenders(count), RUNGS, eta), Algorithm2(eta, list(names))
    busy: list[Job] = []
    while paper.unseen:
        while len(busy) < workers and paper.unseen:
            expected, job = paper.get_job(), ours.next_job()
            assert expected is not None
            name, level = expected
            assert job == Job(name, (*RUNGS, LAST)[level], RUNGS[level - 1] if level else 0)
            busy.append(job)
        done = busy.pop(chance.randrange(len(busy)))
        ours.arrived(done.training_id)
        if done.until != LAST:
            value = chance.randrange(5) / 4  # with ties
            ours.observe(done.training_id, done.until, value)
            paper.rungs[RUNGS.index(done.until)].append((value, done.training_id))


def simulate(halving: Halving, chance: random.Random, workers: int, failing: float = 0.0) -> dict[str, list[int]]:
    """Runs to the end, with values that come late, and trials that fail; training id to where its jobs led."""
    led: dict[str, list[int]] = {}
    busy: list[Job] = []
    unmeasured: list[Job] = []
    while not (halving.over and not busy and not unmeasured):
        halving.stop()
        while len(busy) < workers and (job := halving.next_job()):
            busy.append(job)
            led.setdefault(job.training_id, []).append(job.until)
        waiting = [*(("train", job) for job in busy), *(("measure", job) for job in unmeasured)]
        if not waiting:
            assert halving.stop() or halving.over, "nothing trains, nothing is measured, and no verdict falls"
            continue
        kind, job = chance.choice(waiting)
        if chance.random() < failing:
            halving.failed(job.training_id)
            busy, unmeasured = ([each for each in some if each is not job] for some in (busy, unmeasured))
        elif kind == "train":
            busy.remove(job)
            if halving.arrived(job.training_id) is Phase.PARKED:
                unmeasured.append(job)
        else:
            unmeasured.remove(job)
            halving.observe(job.training_id, job.until, chance.randrange(8) / 7)
    halving.stop()
    return led


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 10_000), st.lists(st.integers(1, 12), min_size=1, max_size=3), st.integers(1, 5),
    st.sampled_from([1.5, 2.0, 3.0, 4.0]), st.sampled_from([0.0, 0.0, 0.1, 0.5]),
)  # fmt: skip
def test_it_always_ends_and_every_group_has_a_whole_trial(
    seed: int, sizes: list[int], workers: int, eta: float, failing: float
) -> None:
    trials = [trial for name, size in zip("abc", sizes, strict=False) for trial in contenders(size, name)]
    halving = Halving(trials, RUNGS, eta)
    led = simulate(halving, random.Random(seed), workers, failing)
    assert all(trial.phase in (Phase.STOPPED, Phase.TRAINED, Phase.FAILED) for trial in trials)
    assert halving.next_job() is None
    steps = (*RUNGS, LAST)
    for trial in trials:  # one rung after the other, none twice
        assert tuple(led.get(trial.training_id, ())) == steps[: len(led.get(trial.training_id, ()))]
    if not failing:
        assert all(trial.training_id in led for trial in trials)
        for name in "abc"[: len(sizes)]:
            of_group = [trial for trial in trials if trial.group == name]
            reached = [sum(step in led[trial.training_id] for trial in of_group) for step in steps]
            assert reached[-1] >= 1
            # Every rung passes on at least the share it should.
            for before, after in itertools.pairwise(reached):
                assert after >= max(1, int(before / eta + 1e-9))


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 20))
def test_with_values_in_order_the_best_are_kept(seed: int, count: int) -> None:
    """One worker at a time and trials that get worse: exactly the best third goes on."""
    trials = contenders(count)
    halving = Halving(trials, RUNGS[:1], 3.0)
    while (job := halving.next_job()) or halving.stop():
        if job and halving.arrived(job.training_id) is Phase.PARKED:
            halving.observe(job.training_id, job.until, 1 - int(job.training_id[-3:]) / 100)
    whole = [trial.training_id for trial in trials if trial.phase is Phase.TRAINED]
    assert whole == [trial.training_id for trial in trials][: max(1, count // 3)]


def test_without_rungs_every_trial_is_trained_to_its_end_in_order() -> None:
    halving = Halving(contenders(3))
    jobs = [halving.next_job() for _ in range(4)]
    assert jobs == [Job("t-()000", LAST), Job("t-()001", LAST), Job("t-()002", LAST), None]
    assert halving.over
    assert halving.untrained() == {"t-()000", "t-()001", "t-()002"}
    assert halving.arrived("t-()001") is Phase.TRAINED
    assert halving.untrained() == {"t-()000", "t-()002"}


def test_a_trial_at_a_rung_waits_for_its_value_and_those_of_the_others() -> None:
    halving = Halving(contenders(2), RUNGS[:1], 2.0)
    for _ in range(2):
        job = halving.next_job()
        assert job is not None
        halving.arrived(job.training_id)
    assert (halving.stop(), halving.next_job(), halving.over) == ({}, None, False)
    halving.observe("t-()000", 2, 0.5)
    assert (halving.stop(), halving.next_job()) == ({}, None)
    halving.observe("t-()001", 2, 0.5)
    assert halving.ready() == {"t-()000"}  # a tie: the spec's order
    assert halving.stop() == {"t-()001": 2}
    assert halving.next_job() == Job("t-()000", LAST, after=2)
    assert halving.over


def test_when_the_one_that_went_on_fails_the_next_best_does() -> None:
    halving = Halving(contenders(3), RUNGS[:1], 2.0)
    for index, accuracy in enumerate((0.9, 0.8)):
        job = halving.next_job()
        assert job is not None
        halving.arrived(job.training_id)
        halving.observe(job.training_id, 2, accuracy)
        assert index or halving.ready() == {"t-()001", "t-()002"}
    assert halving.next_job() == Job("t-()000", LAST, after=2)
    halving.failed("t-()000")
    assert halving.next_job() == Job("t-()002", 2)
    halving.failed("t-()002")
    assert halving.next_job() == Job("t-()001", LAST, after=2)


def test_one_that_was_promoted_before_a_restart_goes_on_first_and_holds_its_place() -> None:
    trials = contenders(4)
    trials[2].level, trials[2].values = 1, {2: 0.1}
    trials[0].phase, trials[0].values = Phase.PARKED, {2: 0.9}
    halving = Halving(trials, RUNGS[:2], 3.0)
    assert halving.next_job() == Job("t-()002", 6, after=2)
    assert halving.next_job() == Job("t-()001", 2)


@pytest.mark.parametrize("count", [1, 2])
def test_few_trials_end_with_one_whole_curve(count: int) -> None:
    trials = contenders(count)
    led = simulate(Halving(trials, RUNGS, 3.0), random.Random(1), 1)
    assert sorted(map(len, led.values())) == [1, 4][-count:]


def test_one_that_failed_takes_no_place_among_the_best() -> None:
    halving = Halving(contenders(6), RUNGS[:1], 2.0)
    jobs = [halving.next_job() for _ in range(5)]
    for index, job in enumerate(jobs):
        assert job is not None
        assert not halving.withdraw(job.training_id)  # it trains
        halving.arrived(job.training_id)
        halving.observe(job.training_id, 2, 0.9 - index / 10)
    assert halving.ready() == {"t-()000", "t-()001", "t-()005"}
    assert halving.withdraw("t-()000")
    assert halving.ready() == {"t-()001", "t-()002", "t-()005"}
