"""What is said of a sweep, and of one trial of it, from which nothing is heard."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dft_sweeps.orchestration import silence as module
from dft_sweeps.orchestration.silence import ALARM_S, Silence
from dft_sweeps.orchestration.trial_state import TrialState


class Told:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.lines = 50.0, list[str]()
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(module, "ray", SimpleNamespace(available_resources=lambda: {"CPU": 1.0, "memory": 5.0}))
        self.silence = Silence(lambda topic, line: self.lines.append(f"{topic}: {line}"))

    def after(self, seconds: float) -> list[str]:
        """What was said since it was last asked."""
        self.now += seconds
        said, self.lines = self.lines, []
        return said


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


def trial(name: str, **known: Any) -> TrialState:
    return TrialState(SimpleNamespace(training_id=name, trial=SimpleNamespace(name=name)), **known)  # type: ignore[arg-type]


def test_a_trial_without_a_metric_raises_an_alarm_while_others_are_heard(told: Told) -> None:
    unplaced, slow, well = trial("a"), trial("b", up=True), trial("c", up=True, measured=True)
    for _ in range(4):
        told.silence.warn_of_trials([unplaced, slow, well])
        told.after(ALARM_S / 4)
    told.silence.warn_of_trials([unplaced, slow, well])
    assert told.after(1) == []
    told.silence.warn_of_trials([unplaced, slow, well])
    assert told.after(ALARM_S) == [
        "train: a: WARNING: no metric of its job in 301 s; its workers are not up; `ray status` shows what waits for "
        "resources",
        "train: b: WARNING: no metric of its job in 301 s; its workers are up",
    ]
    slow.measured = True
    told.silence.warn_of_trials([unplaced, slow, well])
    assert told.after(1) == []
    told.silence.warn_of_trials([unplaced, slow, well])
    [again] = told.after(0)
    assert again.startswith("train: a: WARNING: no metric of its job in 602 s;")


def test_the_time_of_a_trial_that_waits_for_its_turn_or_begins_anew_does_not_count(told: Told) -> None:
    retried = trial("a", up=True)
    for begun in ([], [retried], [], [retried]):  # queued; a job; parked; the next job
        told.silence.warn_of_trials(begun)
        told.after(ALARM_S - 1)
    retried.measured = True
    told.silence.warn_of_trials([retried])
    retried.measured = False
    told.silence.warn_of_trials([retried])
    told.now += ALARM_S
    told.silence.warn_of_trials([retried])
    assert told.after(0) == []


def test_a_sweep_of_which_nothing_is_heard_raises_an_alarm_unless_an_engine_works(told: Told) -> None:
    running = [trial("a", outstanding={0: "weights"}), trial("b")]
    told.now += ALARM_S + 1
    told.silence.warn(running, leasing=True)
    [alarm] = told.after(0)  # of a trial to train, for which no engine is to blame
    assert "nothing was heard for 301 s of 2 trials to train and 1 evaluations; free now: {'CPU': 1.0}" in alarm
    running[1].trained = True
    told.now += ALARM_S + 1
    told.silence.warn(running, leasing=True)
    assert told.after(ALARM_S + 1) == []
    told.silence.warn(running, leasing=False)
    assert len(told.after(0)) == 1
