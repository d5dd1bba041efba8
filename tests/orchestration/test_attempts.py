"""A trial whose worker is killed while its coordinator lives: no curve in MLflow is of two trainings.

Events are given by hand, with bits that do not repeat; the runs are in a real MLflow.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.orchestration.coordinator import Coordinator
from dft_sweeps.orchestration.mailbox import (
    Checkpoint,
    CheckpointWritten,
    StepRow,
    StepRows,
    TrialInterrupted,
    TrialProvenance,
    TrialStarted,
)
from dft_sweeps.orchestration.prepare import PreparedSweep
from dft_sweeps.orchestration.trial_files import TrialFiles
from dft_sweeps.orchestration.trial_runs import TrialRuns
from dft_sweeps.orchestration.tuning import TrainingEnded
from dft_sweeps.tracking import names
from dft_sweeps.tracking.background import Background
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.writer import Tracker
from tests.orchestration.file_sweep import prepared, write_files
from tests.orchestration.test_schedule import evaluated

NLL, ACCURACY = "train/nll", "eval/average/accuracy"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> PreparedSweep:
    """Trials of 6 steps, evaluated at 0, 1, 3 and 6."""
    return prepared(write_files(tmp_path_factory.mktemp("files")))


@dataclass
class Trial:
    """The first trial of the sweep, and everything of it that a process' end would lose."""

    swept: PreparedSweep
    storage: Path
    lines: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    submitted: list[tuple[int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.uri = f"sqlite:///{self.storage}/mlflow.db"
        tracker = Tracker(self.uri, str(self.storage / "artifacts"))
        writer = Background(tracker, self.storage / "spool", self.lines.append)
        self.runs = TrialRuns(writer, Reader(self.uri), self.swept)
        self.runs.begin()
        self.coordinator = Coordinator(
            self.swept, self.runs, self.storage, lambda topic, line: self.lines.append(line), None, self.released.append
        )
        self.id = self.swept.trials[0].training_id
        self.runs.open(self.swept.trials[0])
        self.files = TrialFiles(self.storage, self.id)
        self.files.fresh({})

    def submit(self, training_id: str, checkpoint: Checkpoint, samplings: object) -> None:
        """As of the evaluations: notes what is asked for."""
        self.submitted.append((checkpoint.step, checkpoint.weights_digest))

    def begins(self, step: int, **tags: str) -> None:
        if step:
            self.files.keep(step)
        else:
            self.files.fresh({})
        self.coordinator._handle(TrialStarted(self.id, 0, 0, step, ""), self)
        self.coordinator._handle(TrialProvenance(self.id, {f"dft.{name}": value for name, value in tags.items()}), self)

    def steps(self, steps: range, nll: float) -> None:
        metrics = {NLL: nll, "train/objective": nll, "train/tokens_per_second": 1e3}
        rows = [StepRow(step, 1_000 + step, metrics) for step in steps]
        self.files.append_rows(rows)
        self.coordinator._handle(StepRows(self.id, tuple(rows)), self)

    def writes(self, step: int, digest: str) -> None:
        checkpoint = Checkpoint(step, f"step-{step}", digest, Canary(((1, 2),), ((-1.0,),)))
        self.files.add_checkpoint(checkpoint)
        self.coordinator._handle(CheckpointWritten(self.id, checkpoint), self)

    def lands(self, step: int, digest: str, right: int) -> None:
        self.coordinator._landed(replace(evaluated(self.id, step, right), weights_digest=digest))

    def is_killed(self) -> None:
        self.coordinator._handle(TrialInterrupted(self.id, "its worker died"), self)

    def ends(self) -> None:
        self.coordinator._training_changed(TrainingEnded(self.id, None))
        self.coordinator._settle(self.coordinator._states[self.id])
        self.runs.flush()
        self.coordinator._pass_on_ends()

    def recorded(self) -> list[tuple[str, dict[str, list[tuple[int, float]]], dict[str, str]]]:
        """Status, curves and tags of every run of the trial, the oldest first."""
        reader = Reader(self.uri)
        experiments = [each.experiment_id for each in reader._client.search_experiments()]
        runs = reader._client.search_runs(
            experiments, f"tags.`{names.TRAINING_ID_TAG}` = '{self.id}'", order_by=["attributes.start_time"]
        )
        return [
            (run.info.status, {key: reader.curve(run.info.run_id, key) for key in (NLL, ACCURACY)}, run.data.tags)
            for run in runs
        ]


@pytest.fixture
def trial(swept: PreparedSweep, tmp_path: Path) -> Trial:
    return Trial(swept, tmp_path)


def first_attempt(trial: Trial) -> None:
    """Comes to step 4, with a point at 3."""
    trial.begins(0, device="one")
    for step, digest, right in ((0, "base", 1), (1, "a1", 2), (3, "a3", 3)):
        trial.steps(range(max(step - 1, 1), step + 1), nll=0.5)
        trial.writes(step, digest)
        trial.lands(step, digest, right)
    trial.steps(range(4, 5), nll=0.5)
    trial.is_killed()


def test_what_is_trained_again_is_of_a_new_run_that_takes_up_the_rest(trial: Trial) -> None:
    first_attempt(trial)
    trial.submitted.clear()
    trial.begins(2, device="two", resumed_at="2", mixed_provenance="from step 2: device one -> two")
    assert trial.submitted == [(0, "base"), (1, "a1")]
    trial.lands(0, "base", 1)
    trial.lands(1, "a1", 2)
    trial.steps(range(3, 7), nll=0.25)
    for step, digest in ((3, "b3"), (6, "b6")):
        trial.writes(step, digest)
        trial.lands(step, digest, 4)
    trial.runs.flush()
    trial.coordinator._pass_on_ends()
    assert trial.released == []  # it still trains
    trial.ends()
    assert trial.released == [trial.id]
    [(status, curves, tags), (last_status, last_curves, last_tags)] = trial.recorded()
    assert (status, last_status) == ("KILLED", "FINISHED")
    assert curves == {NLL: [(step, 0.5) for step in range(1, 5)], ACCURACY: [(0, 0.25), (1, 0.5), (3, 0.75)]}
    assert last_curves[NLL] == [(1, 0.5), (2, 0.5), *((step, 0.25) for step in range(3, 7))]
    assert last_curves[ACCURACY] == [(0, 0.25), (1, 0.5), (3, 1.0), (6, 1.0)]
    assert (tags["dft.device"], names.MIXED_PROVENANCE_TAG in tags) == ("one", False)
    assert last_tags[names.MIXED_PROVENANCE_TAG] == "from step 2: device one -> two"
    said = "objective=sft: a new MLflow run, for the earlier attempt's has steps that are trained again"
    assert trial.lines.count(said) == 1


def test_one_that_starts_from_nothing_has_nothing_of_the_attempt_before(trial: Trial) -> None:
    first_attempt(trial)
    trial.begins(0, device="two")
    trial.steps(range(1, 7), nll=0.25)
    for step, digest in ((0, "base"), (1, "b1"), (3, "b3"), (6, "b6")):
        trial.writes(step, digest)
        trial.lands(step, digest, 4)
    trial.ends()
    [(status, _, tags), (last_status, last_curves, last_tags)] = trial.recorded()
    assert (status, last_status) == ("KILLED", "FINISHED")
    assert last_curves == {
        NLL: [(step, 0.25) for step in range(1, 7)],
        ACCURACY: [(step, 1.0) for step in (0, 1, 3, 6)],
    }
    assert (tags["dft.device"], last_tags["dft.device"]) == ("one", "two")


def test_one_that_goes_on_where_its_rows_end_stays_in_its_run(trial: Trial) -> None:
    first_attempt(trial)
    trial.submitted.clear()
    trial.begins(4, device="one", resumed_at="4")
    assert trial.submitted == []
    trial.steps(range(5, 7), nll=0.5)
    trial.writes(6, "a6")
    trial.lands(6, "a6", 4)
    trial.ends()
    [(status, curves, tags)] = trial.recorded()
    assert (status, tags[names.RESUMED_AT_TAG]) == ("FINISHED", "4")
    assert curves == {
        NLL: [(step, 0.5) for step in range(1, 7)],
        ACCURACY: [(0, 0.25), (1, 0.5), (3, 0.75), (6, 1.0)],
    }
