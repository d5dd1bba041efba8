"""What of a trial's files stands for training, to its end or to the rung where it was parked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.orchestration.mailbox import Checkpoint, StepRow
from dft_sweeps.orchestration.prepare import PreparedSweep
from dft_sweeps.orchestration.replay import Left, left_by_earlier_attempts
from dft_sweeps.orchestration.trial_files import TrialFiles
from tests.orchestration.file_sweep import SPEC, prepared, write_files

RUNG = 3


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> PreparedSweep:
    """Trials of 6 steps, evaluated at 0, 1, 3 and 6."""
    directory = write_files(tmp_path_factory.mktemp("files"))
    return prepared(directory, SPEC + f"scheduler: {{kind: asha, rungs: [{RUNG}]}}\n")


def row(step: int) -> StepRow:
    return StepRow(step, step, {"train/objective": 1.0 / step})


def parked(swept: PreparedSweep, storage: Path, rows: int = 4) -> TrialFiles:
    """The files of a trial that was killed one step beyond its rung."""
    [trial, *_] = swept.trials
    files = TrialFiles(storage, trial.training_id)
    files.fresh(trial.trial.spec.evaluation.histogram.model_dump(mode="json"))
    files.append_rows([row(step) for step in range(1, rows + 1)])
    for step in (0, 1, 3):  # of which the weights are those of the base model, for want of others
        where = "/elsewhere" if step == 0 else str(swept.model.directory)
        files.add_checkpoint(Checkpoint(step, where, swept.model.weights_digest, Canary((), ())))
    return files


def left(swept: PreparedSweep, files: TrialFiles, until: int | None) -> Left | None:
    return left_by_earlier_attempts(files, swept.trials[0], str(swept.model.directory), until)


def test_what_is_there_up_to_the_rung_is_taken_up_and_no_more(swept: PreparedSweep, tmp_path: Path) -> None:
    files = parked(swept, tmp_path)
    found = left(swept, files, RUNG)
    assert found is not None
    assert [each.step for each in found.rows] == [1, 2, 3]
    assert list(found.checkpoints) == [0, 1, 3]
    assert found.checkpoints[0].directory == str(swept.model.directory)
    assert left(swept, files, None) is None  # it is not trained to its end


def lose_a_row(swept: PreparedSweep, storage: Path) -> TrialFiles:
    return parked(swept, storage, rows=2)


def change_a_row(swept: PreparedSweep, storage: Path) -> TrialFiles:
    files = parked(swept, storage)
    path = files.directory / "metrics.jsonl"
    path.write_text(path.read_text().replace('"step": 2', '"step": 5'))
    return files


def lose_a_checkpoint(swept: PreparedSweep, storage: Path) -> TrialFiles:
    files = parked(swept, storage)
    (files.directory / "checkpoints.json").unlink()
    return files


def take_histograms_otherwise(swept: PreparedSweep, storage: Path) -> TrialFiles:
    files = parked(swept, storage)
    (files.directory / "histogram.json").write_text('{"every": 2}')
    return files


@pytest.mark.parametrize("spoil", [lose_a_row, change_a_row, lose_a_checkpoint, take_histograms_otherwise])
def test_what_is_not_whole_is_trained_again(
    swept: PreparedSweep, tmp_path: Path, spoil: Callable[[PreparedSweep, Path], TrialFiles]
) -> None:
    assert left(swept, spoil(swept, tmp_path), RUNG) is None
