"""What a submitted sweep's job is handed on the storage, and the log that it leaves there, in a directory for each job.

A directory is written whole and never changed but for its log and the mark that its job is to end; it outlives the
job's cluster.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from dft_sweeps.data.durable import put_in_place

DIRECTORY = "submissions"
LOG = "log"
CANCELLED = "cancelled"
"""A file in the directory of a job that was cancelled before it began."""
GONE = "GONE"
"""The status of a job of a cluster that is no more: what became of it MLflow knows."""
SUBMISSION = re.compile(r"(s-[0-9a-f]{16})-a([1-9][0-9]{0,8})")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredJob:
    """One attempt at a sweep."""

    sweep_id: str
    attempt: int
    name: str
    trials: int
    rerun: tuple[str, ...] | None = None
    """Arguments of `dft-sweeps rerun`; None for `run`."""

    @property
    def submission_id(self) -> str:
        return f"{self.sweep_id}-a{self.attempt}"


def store_job(storage: Path, job: StoredJob, spec: str, hub: bool) -> Path:
    """Writes the job's directory, and gives its path.

    Args:
        spec: resolved, as YAML.
        hub: whether the job may read from the hub.

    Raises:
        OSError: the storage does not take it; nothing of it is left there.
    """
    directory = storage / DIRECTORY / job.submission_id
    new = directory.with_name(f".{job.submission_id}.{secrets.token_hex(4)}")
    content = {
        "sweep_id": job.sweep_id,
        "name": job.name,
        "trials": job.trials,
        "storage": str(storage),
        "hub": hub,
        "rerun": job.rerun,
    }
    try:
        new.mkdir(parents=True)
        (new / "spec.yaml").write_text(spec, encoding="utf-8")
        (new / "job.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
        put_in_place(new, directory)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return directory


def stored_job(storage: Path, submission_id: str) -> StoredJob | None:
    """None where there is none. One whose file is damaged counts as an attempt all the same; its job, where it is still
    to run, ends with an error of its own."""
    found = SUBMISSION.fullmatch(submission_id)
    file = storage / DIRECTORY / submission_id / "job.json"
    if found is None:
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        _say_damaged(file, str(error))
        content = {}
    # Those of earlier versions say neither name nor trials.
    name, trials, rerun = content.get("name", found[1]), content.get("trials", 0), content.get("rerun")
    return StoredJob(found[1], int(found[2]), name, trials, tuple(rerun) if rerun else None)


@functools.cache
def _say_damaged(file: Path, reason: str) -> None:
    """Once, not at every look."""
    logger.warning("%s is damaged, and what it says of its job is lost: %s", file, reason)


def stored_jobs(storage: Path, sweep_id: str) -> list[StoredJob]:
    """Every job that a sweep ever had here, in no order; none of what is no sweep's id."""
    if not SUBMISSION.fullmatch(f"{sweep_id}-a1"):
        return []
    found = [stored_job(storage, path.name) for path in (storage / DIRECTORY).glob(f"{sweep_id}-a*")]
    return [job for job in found if job]


def stored_log(storage: Path, submission_id: str) -> str:
    """What the job printed; nothing where it did not begin."""
    file = storage / DIRECTORY / submission_id / LOG
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
