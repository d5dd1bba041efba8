"""Whether an attempt at a trial takes up what an earlier one left, and from which step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dft_sweeps.orchestration.mailbox import Checkpoint, StepRow
from dft_sweeps.orchestration.trial import TrialJob
from dft_sweeps.orchestration.trial_files import DamagedFile, TrialFiles, is_whole
from dft_sweeps.tracking import names


@dataclass(frozen=True)
class Start:
    step: int
    """The step whose state is taken up; 0 for none."""
    note: str = ""
    """Why none is, although an earlier attempt left something."""


def find_start(files: TrialFiles, job: TrialJob, workers: int) -> Start:
    """Reads what an earlier attempt left, for so many workers to take up; changes nothing."""
    from dft_sweeps.training.state import StateError, check_files, read_header

    try:
        rows, taken = files.rows(), files.histogram()
        checkpoints = {checkpoint.step: checkpoint for checkpoint in files.checkpoints()}
    except DamagedFile as error:
        return Start(0, str(error))
    try:
        header = read_header(files.resume_directory)
        check_files(files.resume_directory)
    except StateError as error:
        return Start(0, f"its state cannot be taken up: {error}")
    if header is None and not (rows or checkpoints):
        return Start(0)
    wanted = job.spec.evaluation.histogram.model_dump(mode="json")
    if taken != wanted:
        return Start(0, f"its histograms were taken as {taken}, and are wanted as {wanted}")
    if header is None:
        return Start(0, _without_state(files, job, rows, checkpoints))
    if header.world_size != workers:
        return Start(
            0, f"its state at step {header.step} is of {header.world_size} workers, and now there are {workers}"
        )
    if lost := lost_rows(rows, header.step):
        return Start(0, f"the rows of the steps {_few(lost)} are lost")
    if lost := _lost({step for step in job.evaluated_steps if step <= header.step}, checkpoints):
        return Start(0, f"its checkpoints of the steps {_damaged(files, lost)}")
    return Start(header.step)


def is_trained(row: StepRow) -> bool:
    """Whether the row is of an optimizer step; that of step 0 holds a histogram alone."""
    return names.train_metric("objective") in row.metrics


def lost_rows(rows: Iterable[StepRow], last: int) -> set[int]:
    """Optimizer steps up to `last` of which there is no row."""
    return set(range(1, last + 1)) - {row.step for row in rows if is_trained(row)}


def _without_state(
    files: TrialFiles, job: TrialJob, rows: Iterable[StepRow], checkpoints: Mapping[int, Checkpoint]
) -> str:
    if not files.finished:
        return "an earlier attempt ended before its state was saved for the first time"
    if lost := _lost(set(job.evaluated_steps), checkpoints):
        return f"it was trained before, but its checkpoints of the steps {_damaged(files, lost)}"
    return f"it was trained before, but the rows of the steps {_few(lost_rows(rows, job.last_step))} are lost"


def _lost(steps: set[int], checkpoints: Mapping[int, Checkpoint]) -> set[int]:
    """Steps without a whole checkpoint. The base model is evaluated where it lies, and needs no copy."""
    return {step for step in steps if step not in checkpoints or (step > 0 and not is_whole(checkpoints[step]))}


def _damaged(files: TrialFiles, steps: Iterable[int]) -> str:
    """Steps, and where their weights should be; the base model's have no place of their own."""
    places = [files.checkpoint_directory(step) / "model.safetensors" for step in steps if step]
    return f"{_few(steps)} are missing or damaged" + (f": {_few(places)}" if places else "")


def _few(entries: Iterable[int] | Iterable[Path], most: int = 5) -> str:
    ordered = sorted(entries)
    return ", ".join(map(str, ordered[:most])) + (f" and {len(ordered) - most} more" if len(ordered) > most else "")
