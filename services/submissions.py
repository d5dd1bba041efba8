"""From a checked spec to its job, or its place among those that wait: one at a time for each sweep, and nothing left
behind where it does not start.

The state is Ray's jobs, who waits, and what MLflow holds. A directory per job hands it the spec, takes its log, and is
written whole before the job starts, and taken away again where Ray refuses the job.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

from dft_sweeps.orchestration.locks import file_lock
from services.allowed import Limits
from services.checking import Busy, CheckedSpec, Rerun
from services.jobs import Refused, SweepJob, waiting_job
from services.submitted_files import DIRECTORY, StoredJob, store_job, stored_job
from services.waiting import changing, join, waiting


class RunsSomethingElse(RuntimeError):
    """The sweep's job has not ended, and does not do what is asked for."""


class Jobs(Protocol):
    """What starts jobs; `services.jobs.SweepJobs`."""

    def all(self) -> list[SweepJob]: ...

    def last(self, sweep_id: str) -> SweepJob | None: ...

    def start(self, id_: str, directory: Path, name: str, trials: int) -> bool: ...


def submit(
    checked: CheckedSpec, jobs: Jobs, storage: Path, limits: Limits, finished: Callable[[], Collection[str]]
) -> tuple[SweepJob, bool]:
    """The job of a sweep, and whether it was started now.

    A job that has not ended is the sweep's one job, and the answer to whatever it does anyway. After it another one
    starts, where something is missing: trials, or the report of a job that did not come so far.

    Args:
        finished: gives the training ids that MLflow knows as finished; asked only where that decides.

    Raises:
        RunsSomethingElse: the sweep's job has not ended, and runs only another part of it, or nothing of it again.
        Busy: as many sweeps run and wait as may.
        ClusterUnavailable: Ray does not answer, or does not take the job.
    """
    # Ray's own refusal of a second job of one id stands behind the lock.
    with file_lock(storage / DIRECTORY / f".{checked.sweep_id}.lock"):
        last = jobs.last(checked.sweep_id)
        fresh = checked.rerun is not None and checked.rerun.fresh
        if last and not last.ended:
            _refuse_other(last, stored_job(storage, last.submission_id), checked.rerun)
            return last, False
        known = last and last.status == "SUCCEEDED" and not fresh and not checked.to_propose
        if last and known and set(checked.training_ids) <= set(finished()):
            return last, False
        _refuse_too_many(jobs, limits.sweeps)
        rerun = checked.rerun.arguments if checked.rerun else None
        stored = StoredJob(checked.sweep_id, last.attempt + 1 if last else 1, checked.name, checked.trials, rerun)
        with changing(storage):
            directory = store_job(storage, stored, checked.resolved, limits.hub)
            if waiting(storage) or sum(not job.ended for job in jobs.all()) >= limits.at_once:
                join(storage, stored.submission_id)
                return waiting_job(stored), True
            try:
                created = jobs.start(stored.submission_id, directory, checked.name, checked.trials)
            except Refused:  # of other errors nobody knows whether Ray has taken the job, which reads this
                shutil.rmtree(directory, ignore_errors=True)
                raise
        started = jobs.last(checked.sweep_id)
        assert started is not None, stored.submission_id
        return started, created


def _refuse_other(job: SweepJob, stored: StoredJob | None, asked: Rerun | None) -> None:
    """Refuses what is not among what a job was asked for when it was submitted."""
    its = stored.rerun if stored else None
    options = [option for option in its or () if option.startswith("--")]
    partly = any(option.startswith(("--cell=", "--failed")) for option in options)
    same = asked is not None and sorted(asked.arguments) == sorted(its or ())
    if not same and (partly or (asked is not None and asked.again)):
        what = f"rerun {' '.join(options)}" if options else "what is missing"
        raise RunsSomethingElse(f"its job {job.submission_id} has not ended, and does something else: {what}")


def _refuse_too_many(jobs: Jobs, most: int) -> None:
    if sum(not job.ended for job in jobs.all()) >= most:
        raise Busy(f"{most} sweeps run and wait; this service takes no more until one has ended")
