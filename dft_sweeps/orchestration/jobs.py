"""From a prepared trial to the job its processes get, with the data they read on storage."""

from __future__ import annotations

from pathlib import Path

from dft_sweeps.orchestration.prepare import PreparedSweep, PreparedTrial
from dft_sweeps.orchestration.trial import TrialJob
from dft_sweeps.orchestration.trial_files import DamagedFile, TrialFiles


def make_job(prepared: PreparedSweep, trial: PreparedTrial, storage: Path) -> TrialJob:
    """What an attempt at the trial needs."""
    # Checkpoints that another sweep's schedule wrote are written again where an attempt starts from nothing.
    try:
        known = TrialFiles(storage, trial.training_id).checkpoints()
    except DamagedFile:  # which the attempt will say
        known = []
    steps = {*trial.evaluated_steps, *(checkpoint.step for checkpoint in known)}
    data_file = storage / "encoded" / f"{trial.data_digest}.npz"
    if not data_file.exists():
        trial.data.save(data_file)
    return TrialJob(
        training_id=trial.training_id,
        spec=trial.trial.spec,
        execution=prepared.sweep.spec.execution,
        storage=str(storage),
        model_directory=str(prepared.model.directory),
        base_digest=prepared.model.weights_digest,
        data_file=str(data_file),
        data_digest=trial.data_digest,
        evaluated_steps=tuple(sorted(steps)),
        template=prepared.prompts.template,
        trusted=prepared.model.trusted,
    )
