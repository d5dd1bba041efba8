"""An attempt goes on from the last state only where all that must come before it is there; else it says what is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.orchestration.jobs import make_job
from dft_sweeps.orchestration.mailbox import Checkpoint, StepRow
from dft_sweeps.orchestration.prepare import PreparedSweep, prepare
from dft_sweeps.orchestration.resume import Start, find_start
from dft_sweeps.orchestration.trial_files import TrialFiles
from dft_sweeps.spec.load import load_sweep
from dft_sweeps.spec.models import ExecutionSpec
from dft_sweeps.training.loop import train
from dft_sweeps.training.model_files import EMBEDDED, weights_digest
from dft_sweeps.training.policy import Policy
from dft_sweeps.training.sharding import Ranks
from dft_sweeps.training.state import TrainState
from tests.orchestration.real_trials import SPEC
from tests.training.tiny_policy import random_samples, tiny_model, train_spec

SAVED = 6
CANARY = Canary(((1, 2),), ((-1.0,),))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedSweep:
    path = tmp_path_factory.mktemp("spec") / "spec.yaml"
    path.write_text(SPEC)
    return prepare(load_sweep(path))


@pytest.fixture
def files(prepared: PreparedSweep, tmp_path: Path) -> TrialFiles:
    """What an attempt that was killed after step 8 leaves; its last state is of step 6."""
    files = TrialFiles(tmp_path, prepared.trials[0].training_id)
    files.fresh(prepared.trials[0].trial.spec.evaluation.histogram.model_dump())
    files.append_rows([row(step) for step in range(9)])
    digest = weights_digest(EMBEDDED)
    files.add_checkpoint(Checkpoint(0, "where/it/was/then", digest, CANARY))
    for step in (4, 8):
        directory = files.checkpoint_directory(step)
        shutil.copytree(EMBEDDED, directory)
        files.add_checkpoint(Checkpoint(step, str(directory), digest, CANARY))
    state(SAVED).save(files.resume_directory, Ranks(), {})
    return files


def row(step: int) -> StepRow:
    return StepRow(step, step, {"train/objective": 1.0} if step else {"probability/bin_00": 1.0})


def state(step: int) -> TrainState:
    """Of a tiny policy, which passes for the trial's."""
    trained = TrainState(Policy(tiny_model()), train_spec(steps=1))
    list(train(trained, random_samples(4), frozenset(), ExecutionSpec(), Ranks()))
    trained.step = step
    return trained


def start(files: TrialFiles, prepared: PreparedSweep, workers: int = 1) -> Start:
    job = make_job(prepared, prepared.trials[0], files.directory.parents[1])
    return find_start(files, job, workers)


def rewrite(files: TrialFiles, rows: list[StepRow]) -> None:
    (files.directory / "metrics.jsonl").unlink()
    files.append_rows(rows)


def finish(files: TrialFiles) -> None:
    """With the checkpoint of step 12, as an attempt that trains on to the end does."""
    listed = files.checkpoints()[-1]
    directory = files.checkpoint_directory(12)
    shutil.copytree(listed.directory, directory)
    files.add_checkpoint(replace(listed, step=12, directory=str(directory)))
    files.finish()


def test_a_whole_state_is_taken_up(files: TrialFiles, prepared: PreparedSweep) -> None:
    assert start(files, prepared) == Start(SAVED)


def test_where_nothing_was_there_is_nothing_to_say(prepared: PreparedSweep, tmp_path: Path) -> None:
    assert start(TrialFiles(tmp_path, prepared.trials[0].training_id), prepared) == Start(0)


def test_what_comes_after_the_state_does_not_matter(files: TrialFiles, prepared: PreparedSweep) -> None:
    shutil.rmtree(files.checkpoint_directory(8))
    rewrite(files, [row(step) for step in range(SAVED + 1)])
    assert start(files, prepared) == Start(SAVED)


Change = Callable[[TrialFiles], object]
CHANGES: dict[str, tuple[Change, str]] = {
    "no state": (
        lambda files: shutil.rmtree(files.resume_directory),
        "an earlier attempt ended before its state was saved for the first time",
    ),
    "a state cut off": (
        lambda files: (files.resume_directory / "step-00000006").rename(files.resume_directory / ".step-6.partial"),
        "an earlier attempt ended before its state was saved for the first time",
    ),
    "a row is lost": (
        lambda files: rewrite(files, [row(step) for step in (0, 1, 2, 4, 6, 7)]),
        "the rows of the steps 3, 5 are lost",
    ),
    "the state is ahead of its rows": (
        lambda files: rewrite(files, [row(step) for step in range(SAVED)]),
        "the rows of the steps 6 are lost",
    ),
    "histograms of other edges": (
        lambda files: (files.directory / "histogram.json").write_text('{"every": null, "samples": 4, "edges": [0, 1]}'),
        "its histograms were taken as {'every': None, 'samples': 4, 'edges': [0, 1]}, "
        "and are wanted as {'every': None, 'samples': 4, 'edges': [0.0, 0.01, 0.5, 1.0]}",
    ),
    "a checkpoint is missing": (
        lambda files: shutil.rmtree(files.checkpoint_directory(4)),
        "its checkpoints of the steps 4 are missing or damaged: <trial>/step-000004/model.safetensors",
    ),
    "a checkpoint has other weights": (
        lambda files: (files.checkpoint_directory(4) / "model.safetensors").write_bytes(b"\0" * 8),
        "its checkpoints of the steps 4 are missing or damaged: <trial>/step-000004/model.safetensors",
    ),
    "no checkpoint is listed": (
        lambda files: (files.directory / "checkpoints.json").unlink(),
        "its checkpoints of the steps 0, 4 are missing or damaged: <trial>/step-000004/model.safetensors",
    ),
    "finished, but a row is lost": (
        lambda files: (rewrite(files, [row(step) for step in range(12)]), finish(files)),
        "it was trained before, but the rows of the steps 12 are lost",
    ),
    "finished, but a checkpoint is missing": (
        lambda files: (files.finish(), shutil.rmtree(files.checkpoint_directory(8))),
        "it was trained before, but its checkpoints of the steps 8, 12 are missing or damaged: "
        "<trial>/step-000008/model.safetensors, <trial>/step-000012/model.safetensors",
    ),
}


STATE = Path("resume", "step-00000006")
DAMAGES: dict[str, tuple[Path, Callable[[bytes], bytes], str]] = {
    "the header is cut off": (STATE / "state.json", lambda content: content[:-5], "is damaged"),
    "the header tells of another step": (
        STATE / "state.json",
        lambda content: content.replace(b'"step": 6', b'"step": 4'),
        "is not of the state its header tells of",
    ),
    "a bit is flipped": (
        STATE / "rank-00000.safetensors",
        lambda content: content[:-1000] + bytes([content[-1000] ^ 1]) + content[-999:],
        "is damaged: its tensors are not those that were saved",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_state_is_not_taken_up(name: str, files: TrialFiles, prepared: PreparedSweep) -> None:
    file, damage, message = DAMAGES[name]
    path = files.directory / file
    path.write_bytes(damage(path.read_bytes()))
    found = start(files, prepared)
    assert found.step == 0
    assert found.note.startswith(f"its state cannot be taken up: {files.resume_directory}") and message in found.note


@pytest.mark.parametrize("name", CHANGES)
def test_what_does_not_fit_is_told(name: str, files: TrialFiles, prepared: PreparedSweep) -> None:
    change, note = CHANGES[name]
    change(files)
    assert start(files, prepared) == Start(0, note.replace("<trial>", str(files.directory)))


def test_a_state_of_another_number_of_workers(files: TrialFiles, prepared: PreparedSweep) -> None:
    note = "its state at step 6 is of 1 workers, and now there are 2"
    assert start(files, prepared, workers=2) == Start(0, note)
