"""From a checked spec to its job: one at a time for each sweep, and nothing left behind where it does not start.

The state is Ray's jobs and what MLflow holds. A directory per job hands it the spec; it is written whole before the
job starts, and taken away again where Ray refuses the job.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Protocol

from services.checking import CheckedSpec
from services.jobs import SweepJob, submission_id

DIRECTORY = "submissions"


class Jobs(Protocol):
    """What starts jobs; `services.jobs.SweepJobs`."""

    def last(self, sweep_id: str) -> SweepJob | None: ...

    def start(self, id_: str, directory: Path, name: str, trials: int) -> bool: ...


def submit(
    checked: CheckedSpec, jobs: Jobs, storage: Path, hub: bool, finished: Callable[[], Collection[str]]
) -> tuple[SweepJob, bool]:
    """The job of a sweep, and whether it was started now.

    A job that has not ended is the sweep's one job. After it another one starts, where something is missing.

    Args:
        hub: whether the job may read from the hub.
        finished: gives the training ids that MLflow knows as finished; asked only where that decides.

    Raises:
        ClusterUnavailable: Ray does not answer, or does not take the job.
    """
    with _one_at_a_time(storage, checked.sweep_id):
        last = jobs.last(checked.sweep_id)
        fresh = checked.rerun is not None and checked.rerun.fresh
        if last and (not last.ended or (not fresh and set(checked.training_ids) <= set(finished()))):
            return last, False
        id_ = submission_id(checked.sweep_id, last.attempt + 1 if last else 1)
        directory = _write(checked, storage, id_, hub)
        try:
            created = jobs.start(id_, directory, checked.name, checked.trials)
        except BaseException:
            shutil.rmtree(directory)
            raise
        started = jobs.last(checked.sweep_id)
        assert started is not None, id_
        return started, created


def _write(checked: CheckedSpec, storage: Path, id_: str, hub: bool) -> Path:
    """The job's directory, over that of a job of this id of a cluster that is gone."""
    directory = storage / DIRECTORY / id_
    new = directory.with_name(f".{id_}.{secrets.token_hex(4)}")
    new.mkdir()
    (new / "spec.yaml").write_text(checked.resolved, encoding="utf-8")
    rerun = checked.rerun.arguments if checked.rerun else None
    job = {"sweep_id": checked.sweep_id, "storage": str(storage), "hub": hub, "rerun": rerun}
    (new / "job.json").write_text(json.dumps(job, indent=1), encoding="utf-8")
    if directory.exists():
        shutil.rmtree(directory)
    return new.rename(directory)


@contextlib.contextmanager
def _one_at_a_time(storage: Path, sweep_id: str) -> Iterator[None]:
    """Holds the sweep's lock. Ray's own refusal of a second job of one id stands behind it."""
    directory = storage / DIRECTORY
    directory.mkdir(exist_ok=True)
    with (directory / f".{sweep_id}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
