"""What a coordinator's scheduler begins with after a restart, and what verdicts and failures do to its trials."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dft_sweeps.orchestration.evaluation_metrics import deciding_accuracy, evaluation_metrics
from dft_sweeps.orchestration.evaluations import Evaluated
from dft_sweeps.orchestration.halving import Job
from dft_sweeps.orchestration.mailbox import AN_ENGINE
from dft_sweeps.orchestration.prepare import PreparedSweep
from dft_sweeps.orchestration.schedule import Schedule
from dft_sweeps.orchestration.trial_files import TrialFiles
from dft_sweeps.orchestration.trial_state import TrialState
from dft_sweeps.spec.errors import SpecError
from tests.orchestration.file_sweep import SPEC, prepared, write_files
from tests.orchestration.test_evaluation_metrics import judged, result

ASHA = "scheduler: {kind: asha, rungs: [1, 3], reduction_factor: 2}\n"
FOUR = SPEC.replace("[sft, dft]", "[sft, dft]\n  train.learning_rate: [1e-3, 1e-2]")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> PreparedSweep:
    """Four trials of 6 steps."""
    return prepared(write_files(tmp_path_factory.mktemp("files")), FOUR + ASHA)


@dataclass
class Recorded:
    """What MLflow knows of trials, by their numbers."""

    ids: list[str]
    values: dict[int, dict[int, float]] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    having_failed: tuple[int, ...] = ()

    def accuracies(self, training_ids: Collection[str], sampling: str) -> dict[str, dict[int, float]]:
        assert sampling == "sampled"
        return {self.ids[index]: values for index, values in self.values.items() if self.ids[index] in training_ids}

    def trained_steps(self, training_ids: Collection[str]) -> dict[str, int]:
        return {self.ids[index]: step for index, step in self.steps.items() if self.ids[index] in training_ids}

    def failed(self, training_ids: Collection[str]) -> set[str]:
        return {self.ids[index] for index in self.having_failed} & set(training_ids)


def recorded(swept: PreparedSweep, **known: dict) -> Recorded:
    return Recorded([trial.training_id for trial in swept.trials], **known)


def evaluated(training_id: str, step: int, right: int) -> Evaluated:
    verdicts = [[index < right] for index in range(4)]
    results = {"sampled": [{"exact": result("gsm8k", "exact/1", verdicts)}]}
    return Evaluated(training_id, step, results, 1.0, 0.1, "weights")


def test_promotions_and_values_are_rebuilt_from_what_mlflow_holds(swept: PreparedSweep, tmp_path: Path) -> None:
    runs = recorded(swept, values={0: {1: 0.5}, 1: {1: 0.9}, 2: {1: 0.2}}, steps={0: 1, 1: 2, 2: 1})
    for id_ in runs.ids[:3]:
        TrialFiles(tmp_path, id_).directory.mkdir(parents=True)
    schedule = Schedule(swept, runs, runs.ids, tmp_path)
    # Number 1 was promoted: it has a row beyond the rung. What 0 and 2 left at the rung need not be trained again.
    assert [schedule.halving.next_rung(id_) for id_ in runs.ids] == [1, 3, 1, 1]
    states = [TrialState(trial) for trial in swept.trials]
    for index in (0, 2):
        schedule.job_done(states[index])
    assert schedule.halving.next_job() == Job(runs.ids[1], 3, after=1)
    assert schedule.halving.next_job() == Job(runs.ids[3], 1)
    schedule.job_done(states[3])
    schedule.evaluated(evaluated(runs.ids[3], 1, right=3))
    schedule.settle(states)
    assert [state.stopped_at for state in states] == [1, None, 1, None]  # 3 is the second of four
    assert [state.trained for state in states] == [True, False, True, False]
    assert states[0].due == {0, 1}
    assert schedule.halving.next_job() == Job(runs.ids[3], 3, after=1)


def test_what_was_stopped_or_is_run_elsewhere_keeps_its_rank(swept: PreparedSweep, tmp_path: Path) -> None:
    runs = recorded(swept, values={0: {1: 0.9, 3: 0.9, 6: 0.9}, 1: {1: 0.8}}, steps={0: 6, 1: 1})
    mine = runs.ids[2:]
    schedule = Schedule(swept, runs, mine, tmp_path)
    states = [TrialState(trial) for trial in swept.trials if trial.training_id in mine]
    for state, right in zip(states, (2, 1), strict=True):
        job = schedule.halving.next_job()
        assert job == Job(state.prepared.training_id, 1)
        schedule.job_done(state)
        schedule.evaluated(evaluated(job.training_id, 1, right))
    schedule.settle(states)
    assert [state.stopped_at for state in states] == [1, 1]  # the two before them are the better half


def test_what_failed_in_an_earlier_round_competes_no_more(swept: PreparedSweep, tmp_path: Path) -> None:
    """Else it would hold the place of the one that is to go on in any case."""
    values = {0: {1: 0.9}, 1: {1: 0.8}}
    runs = recorded(swept, values=values, steps={0: 2, 1: 1}, having_failed=(0,))
    schedule = Schedule(swept, runs, runs.ids[2:], tmp_path)
    states = [TrialState(trial) for trial in swept.trials[2:]]
    for state, right in zip(states, (1, 2), strict=True):
        schedule.halving.next_job()
        schedule.job_done(state)
        schedule.evaluated(evaluated(state.prepared.training_id, 1, right))
    schedule.settle(states)
    assert [state.stopped_at for state in states] == [1, None]
    assert schedule.halving.next_job() == Job(runs.ids[3], 3, after=1)


@dataclass
class Told:
    """Stands for the mailbox."""

    ready: list[frozenset[str]] = field(default_factory=list)
    unplaced: list[frozenset[str]] = field(default_factory=list)

    @property
    def expect(self) -> Told:
        return self

    def remote(self, ready: frozenset[str], untrained: frozenset[str], unplaced: frozenset[str]) -> None:
        self.ready.append(ready)
        self.unplaced.append(unplaced)


def test_workers_learn_of_a_job_that_follows_another_unseen(
    swept: PreparedSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator may look only after a trial was handed over, has come to its rung and was promoted there."""
    clock = [100.0]
    monkeypatch.setattr("dft_sweeps.orchestration.schedule.time.monotonic", lambda: clock[0])
    runs = recorded(swept)
    [mine, *_] = runs.ids
    schedule, state, mailbox = Schedule(swept, runs, [mine], tmp_path), TrialState(swept.trials[0]), Told()
    schedule.tell(mailbox, [state], False)  # type: ignore[arg-type]
    assert schedule.halving.next_job() == Job(mine, 1)
    schedule.job_done(state)
    schedule.evaluated(evaluated(mine, 1, right=2))
    schedule.tell(mailbox, [state], False)  # type: ignore[arg-type]
    clock[0] += 2.0
    schedule.tell(mailbox, [state], False)  # type: ignore[arg-type]
    assert mailbox.ready == [{mine}, {mine}]


def test_workers_learn_of_what_waits_for_their_room(swept: PreparedSweep, tmp_path: Path) -> None:
    """A job that Tune has and no workers have begun, be it anew after a rung, and an engine."""
    runs = recorded(swept)
    [mine, *_] = runs.ids
    schedule, state, mailbox = Schedule(swept, runs, [mine], tmp_path), TrialState(swept.trials[0]), Told()

    def tell(engine_lacks: bool = False) -> frozenset[str]:
        schedule.tell(mailbox, [state], engine_lacks)  # type: ignore[arg-type]
        return mailbox.unplaced[-1]

    assert tell() == set()  # it waits for its turn
    schedule.halving.next_job()
    assert tell() == {mine}
    state.up = True
    assert tell() == set()
    schedule.job_done(state)
    assert tell(engine_lacks=True) == {AN_ENGINE}
    schedule.evaluated(evaluated(mine, 1, right=2))
    schedule.halving.next_job()
    assert tell() == {mine}


def test_without_its_files_a_trial_begins_anew(swept: PreparedSweep, tmp_path: Path) -> None:
    runs = recorded(swept, values={0: {1: 0.9}}, steps={0: 6})
    schedule = Schedule(swept, runs, runs.ids, tmp_path)
    assert schedule.halving.next_job() == Job(runs.ids[0], 1)


def test_a_failed_evaluation_ends_a_parked_trial_at_once_and_a_training_one_later(
    swept: PreparedSweep, tmp_path: Path
) -> None:
    runs = recorded(swept)
    schedule = Schedule(swept, runs, runs.ids, tmp_path)
    states = [TrialState(trial) for trial in swept.trials]
    for _ in range(2):
        schedule.halving.next_job()
    schedule.job_done(states[0])
    states[0].error = states[1].error = "step 0: the engine died"
    schedule.settle(states)
    assert [state.trained for state in states] == [True, False, False, False]
    schedule.job_done(states[1])
    assert states[1].trained
    schedule.settle(states)
    assert schedule.halving.untrained() == set(runs.ids[2:])


def test_without_a_scheduler_nothing_of_mlflow_is_asked(tmp_path: Path) -> None:
    plain = prepared(write_files(tmp_path), SPEC)
    ids = [trial.training_id for trial in plain.trials]
    schedule = Schedule(plain, None, ids, tmp_path)  # type: ignore[arg-type]
    assert [schedule.halving.next_job() for _ in range(3)] == [Job(ids[0], 6), Job(ids[1], 6), None]


@pytest.mark.parametrize(("share", "name"), [(None, "accuracy"), (1 / 3, "selection_accuracy")])
def test_verdicts_go_by_the_number_that_mlflow_keeps(share: float | None, name: str) -> None:
    """To the last bit, so that a restart ranks as before."""
    results = [judged("amc23"), judged("aime24")]
    assert deciding_accuracy(results, share) == evaluation_metrics("eval", results, share)[f"eval/average/{name}"]


def test_a_rung_beyond_the_last_step_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        prepared(write_files(tmp_path), SPEC + "scheduler: {kind: asha, rungs: [3, 6]}\n")
    assert str(caught.value).endswith(
        "scheduler.rungs[1]: the rung 6 is not below the last step, which is 6 in the trial 'objective=sft'"
    )
