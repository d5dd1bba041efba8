"""What the coordinator makes of events, whatever their order: no point is lost, and no trial takes others with it.

Real sweeps are in tests/end_to_end; here the events are given by hand and MLflow's side only notes what it is told.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.orchestration.coordinator import Coordinator
from dft_sweeps.orchestration.evaluations import Evaluated
from dft_sweeps.orchestration.mailbox import (
    Checkpoint,
    CheckpointWritten,
    JobDone,
    NonFinite,
    StepRow,
    StepRows,
    TrialFailed,
    TrialInterrupted,
    TrialNote,
    TrialProvenance,
    TrialStarted,
    WorkersUp,
)
from dft_sweeps.orchestration.prepare import PreparedSweep, PreparedTrial, prepare
from dft_sweeps.orchestration.trial_files import TrialFiles
from dft_sweeps.orchestration.tuning import TrainingEnded
from dft_sweeps.spec.load import load_sweep
from tests.end_to_end.running import SPEC

CANARY = Canary(((1, 2),), ((-1.0,),))


class Notes:
    """Takes the place of the MLflow runs and of the evaluation side."""

    def __init__(self) -> None:
        self.points: list[tuple[str, int]] = []
        self.ends: dict[str, str] = {}
        self.submitted: list[int] = []
        self.directories: list[str] = []
        self.steps: list[int] = []
        self.tags: dict[str, str] = {}
        self.files: list[Path] = []
        self.lines: list[str] = []

    def is_complete(self, trial: PreparedTrial) -> bool:
        return False

    def log_evaluation(self, trial: PreparedTrial, evaluated: Evaluated) -> str:
        assert trial.training_id not in self.ends, "a point after the run's end"
        self.points.append((trial.training_id, evaluated.step))
        return "50%"

    def take_up(self, trial: PreparedTrial, step: int) -> bool:
        return False

    def log_steps(self, training_id: str, rows: list[StepRow]) -> None:
        self.steps += [row.step for row in rows]

    def tag(self, training_id: str, tags: dict[str, str]) -> None:
        self.tags |= tags

    def add_file(self, training_id: str, path: Path) -> None:
        self.files.append(path)

    def finish(self, training_id: str, status: str) -> None:
        self.ends[training_id] = status

    def submit(self, training_id: str, checkpoint: Checkpoint, samplings: object) -> None:
        self.submitted.append(checkpoint.step)
        self.directories.append(checkpoint.directory)


@pytest.fixture(scope="module")
def prepared() -> PreparedSweep:
    return prepare(load_sweep(SPEC))


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def coordinator(prepared: PreparedSweep, notes: Notes, tmp_path: Path) -> Coordinator:
    return Coordinator(prepared, notes, tmp_path, lambda topic, line: notes.lines.append(line))


def written(training_id: str, step: int) -> CheckpointWritten:
    return CheckpointWritten(training_id, Checkpoint(step, f"step-{step}", "weights", CANARY))


def landed(training_id: str, step: int, error: str | None = None) -> Evaluated:
    return Evaluated(training_id, step, {}, 1.0, 0.1, "weights", error)


def end(coordinator: Coordinator, training_id: str, error: str | None = None) -> None:
    coordinator._training_changed(TrainingEnded(training_id, error))
    coordinator._settle(coordinator._states[training_id])


def test_a_failed_trial_keeps_the_points_that_are_under_way(coordinator: Coordinator, notes: Notes) -> None:
    failed = next(iter(coordinator._states))
    coordinator._handle(written(failed, 0), notes)
    coordinator._handle(TrialFailed(failed, "NonFiniteError: step 1"), notes)
    end(coordinator, failed, "its driver failed")
    assert notes.ends == {}
    coordinator._landed(landed(failed, 0))
    coordinator._settle(coordinator._states[failed])
    assert notes.points == [(failed, 0)]
    assert notes.ends == {failed: "FAILED"}
    assert coordinator._states[failed].error == "NonFiniteError: step 1"


def test_a_trial_ends_when_training_and_every_evaluation_have(coordinator: Coordinator, notes: Notes) -> None:
    trial = next(iter(coordinator._states))
    for step in (0, 3, 6):
        coordinator._handle(written(trial, step), notes)
    coordinator._landed(landed(trial, 6))
    coordinator._landed(landed(trial, 0))
    end(coordinator, trial)
    assert notes.ends == {}
    coordinator._landed(landed(trial, 3))
    coordinator._settle(coordinator._states[trial])
    assert notes.ends == {trial: "FINISHED"}
    assert notes.submitted == [0, 3, 6]


def test_a_failed_evaluation_fails_its_trial_only_after_the_others_landed(
    coordinator: Coordinator, notes: Notes
) -> None:
    trial = next(iter(coordinator._states))
    for step in (0, 3, 6):
        coordinator._handle(written(trial, step), notes)
    end(coordinator, trial)
    coordinator._landed(landed(trial, 0, "the engine died"))
    coordinator._landed(landed(trial, 3))
    coordinator._landed(landed(trial, 6))
    coordinator._settle(coordinator._states[trial])
    assert [step for _, step in notes.points] == [3, 6]
    assert notes.ends == {trial: "FAILED"}
    assert coordinator._states[trial].error == "step 0: the engine died"


def test_training_that_ends_without_its_checkpoints_is_a_failure(coordinator: Coordinator, notes: Notes) -> None:
    trial = next(iter(coordinator._states))
    coordinator._handle(written(trial, 0), notes)
    coordinator._landed(landed(trial, 0))
    end(coordinator, trial)
    assert notes.ends == {trial: "FAILED"}
    assert coordinator._states[trial].error == "its training ended without checkpoints of the steps [3, 6]"


def test_checkpoints_of_another_schedule_are_kept_but_not_evaluated(coordinator: Coordinator, notes: Notes) -> None:
    trial = next(iter(coordinator._states))
    coordinator._handle(written(trial, 2), notes)
    assert notes.submitted == []


def trained(step: int) -> StepRow:
    return StepRow(step, 9_000 + step, {"train/objective": 0.5, "train/nll": 0.25, "train/tokens_per_second": 1e3})


def test_what_an_attempt_takes_up_becomes_part_of_its_run(
    coordinator: Coordinator, notes: Notes, prepared: PreparedSweep, tmp_path: Path
) -> None:
    trial = next(iter(coordinator._states))
    files = TrialFiles(tmp_path, trial)
    files.fresh({})
    files.append_rows([StepRow(0, 1, {"probability/bin_00": 1.0}), *map(trained, range(1, 6))])  # step 5 is its own
    for step in (0, 2, 3):
        files.add_checkpoint(Checkpoint(step, f"old/{step}", "weights", CANARY))
    coordinator._handle(TrialStarted(trial, 5_000, 8_000, 4, ""), notes)
    coordinator._handle(TrialProvenance(trial, {"dft.resumed_at": "4"}), notes)
    coordinator._handle(StepRows(trial, (trained(5), trained(6))), notes)
    assert notes.steps == [0, 1, 2, 3, 4, 5, 6]
    assert notes.submitted == [0, 3]  # step 2 is of another schedule
    assert notes.directories == [str(prepared.model.directory), "old/3"]  # the base model lies where it lies now
    assert notes.tags == {"dft.resumed_at": "4"}
    assert notes.lines == [
        "objective=sft: started; its worker was up after 3 s",
        "objective=sft: resumed at step 4 of 6",
        "objective=sft: first step 4 s after the trial's start",
        "objective=sft: step 6/6  objective 0.5000  nll 0.2500  1,000 tokens/s",
    ]


def test_a_trial_that_starts_again_says_why(coordinator: Coordinator, notes: Notes) -> None:
    trial = next(iter(coordinator._states))
    coordinator._handle(TrialStarted(trial, 0, 0, 0, "the rows of the steps 3 are lost"), notes)
    coordinator._handle(TrialNote(trial, "reference log-probabilities found"), notes)
    assert notes.lines[1:] == [
        "objective=sft: starts from step 0 again: the rows of the steps 3 are lost",
        "objective=sft: reference log-probabilities found",
    ]
    assert (notes.steps, notes.submitted) == ([], [])


def test_workers_that_end_after_their_job_interrupt_nothing(coordinator: Coordinator, notes: Notes) -> None:
    """Nothing is tried again, so an evaluation that fails then has failed for good."""
    trial = coordinator._schedule.halving.next_job().training_id
    coordinator._handle(TrialStarted(trial, 0, 0, 0, ""), notes)
    coordinator._handle(written(trial, 6), notes)
    coordinator._handle(JobDone(trial), notes)
    coordinator._handle(TrialInterrupted(trial, "a worker died"), notes)
    coordinator._landed(landed(trial, 6, "the engine died"))
    assert coordinator._states[trial].error == "step 6: the engine died"
    assert "objective=sft: interrupted: a worker died" in notes.lines


def test_what_an_attempt_that_died_left_is_evaluated_by_the_next(coordinator: Coordinator, notes: Notes) -> None:
    trial = coordinator._schedule.halving.next_job().training_id
    state = coordinator._states[trial]
    coordinator._handle(WorkersUp(trial), notes)
    assert state.up
    coordinator._handle(TrialStarted(trial, 0, 0, 0, ""), notes)
    coordinator._handle(written(trial, 3), notes)
    coordinator._handle(TrialInterrupted(trial, "a worker died"), notes)
    coordinator._landed(landed(trial, 3, "its weights are gone"))
    assert (state.error, state.interruption, state.up) == (None, "a worker died", False)


def test_a_row_without_an_optimizer_step_is_logged_and_not_shown(coordinator: Coordinator, notes: Notes) -> None:
    trial = next(iter(coordinator._states))
    coordinator._handle(TrialStarted(trial, 5_000, 8_000, 0, ""), notes)
    coordinator._handle(StepRows(trial, (StepRow(0, 1, {"probability/bin_00": 1.0}),)), notes)
    assert len(notes.lines) == 1
    coordinator._handle(StepRows(trial, (trained(1),)), notes)
    assert notes.lines[1] == "objective=sft: first step 4 s after the trial's start"
    assert coordinator._states[trial].measured
    assert notes.steps == [0, 1]


def test_progress_tells_the_last_accuracy_that_landed(coordinator: Coordinator) -> None:
    state = next(iter(coordinator._states.values()))
    assert "accuracy" not in state.progress(trained(1))
    state.last_accuracy = "50% (step 0)"
    assert state.progress(trained(1)).endswith("tokens/s  last accuracy 50% (step 0)")


def test_the_record_of_a_batch_that_was_not_finite_goes_to_its_run(coordinator: Coordinator, notes: Notes) -> None:
    trial = next(iter(coordinator._states))
    coordinator._handle(NonFinite(trial, 7, "/storage/non_finite.json"), notes)
    assert notes.files == [Path("/storage/non_finite.json")]
    assert notes.tags == {"dft.diverged_at": "7"}
