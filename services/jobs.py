"""Submitted sweeps as Ray Jobs: started exactly once under a submission id, looked up, stopped, and their logs.

Keeps no state: Ray says what runs. A job lives as long as its cluster.
"""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dft_sweeps.orchestration.cluster import ClusterUnavailable

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

T = TypeVar("T")

ENTRYPOINT = "dft_sweeps.cli.sweep_job"
STOP_S = 60
"""How long a job that is stopped may close its runs and end its engines before it is killed."""
_SUBMISSION = re.compile(r"(s-[0-9a-f]{16})-a([1-9][0-9]*)")
_STOPPING = {
    # The job's children get the signal too. On SIGTERM graders would die, and their answers count as ungradable.
    "RAY_JOB_STOP_SIGNAL": "SIGINT",
    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S),
}


@dataclass(frozen=True)
class SweepJob:
    """One attempt at a sweep."""

    submission_id: str
    sweep_id: str
    attempt: int
    name: str
    trials: int
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    exit_code: int | None = None
    """As of `dft-sweeps run`; None while it runs, and where it was stopped or killed."""
    started_ms: int | None = None
    ended_ms: int | None = None

    @property
    def ended(self) -> bool:
        return self.status in {"SUCCEEDED", "FAILED", "STOPPED"}


def submission_id(sweep_id: str, attempt: int) -> str:
    return f"{sweep_id}-a{attempt}"


class SweepJobs:
    """The sweeps' jobs of a cluster.

    Args:
        address: of the cluster's GCS or dashboard; Ray's own environment variables come before it.

    Raises:
        ClusterUnavailable: Ray's dashboard does not answer. So do all methods.
    """

    def __init__(self, address: str | None = None) -> None:
        self._address = address

    @cached_property
    def _client(self) -> JobSubmissionClient:
        from ray.job_submission import JobSubmissionClient

        return JobSubmissionClient(self._address)

    def all(self) -> list[SweepJob]:
        """Every job of a sweep, the newest last."""
        found = [_sweep_job(details) for details in _reached(lambda: self._client.list_jobs())]
        return sorted((job for job in found if job), key=lambda job: (job.started_ms or 0, job.attempt))

    def get(self, id_: str) -> SweepJob | None:
        try:
            return _sweep_job(_reached(lambda: self._client.get_job_info(id_)))
        except _Refused as refused:
            if "does not exist" in str(refused):
                return None
            raise

    def last(self, sweep_id: str) -> SweepJob | None:
        """The newest attempt at a sweep."""
        last = None
        while job := self.get(submission_id(sweep_id, last.attempt + 1 if last else 1)):
            last = job
        return last

    def start(self, id_: str, directory: Path, name: str, trials: int) -> bool:
        """Starts the job that reads `directory`; False where there is a job of this id already."""
        try:
            _reached(
                lambda: self._client.submit_job(
                    entrypoint=f"exec {shlex.join([sys.executable, '-m', ENTRYPOINT, str(directory)])}",
                    submission_id=id_,
                    metadata={"sweep": name, "trials": str(trials)},
                    runtime_env={"env_vars": _STOPPING},
                )
            )
        except _Refused as refused:
            if "already exists" in str(refused):
                return False
            raise
        return True

    def stop(self, id_: str) -> bool:
        """Asks a job to end; False where it has not begun or has ended. It has `STOP_S` seconds."""
        return _reached(lambda: self._client.stop_job(id_))

    def stop_all(self, running: Sequence[SweepJob]) -> None:
        """Stops these jobs and waits until they have ended, as long as that may take."""
        for job in running:
            self.stop(job.submission_id)
        deadline = time.monotonic() + STOP_S + 15
        left = [job.submission_id for job in running]
        while left and time.monotonic() < deadline:
            time.sleep(0.5)
            left = [id_ for id_ in left if (job := self.get(id_)) and not job.ended]

    def log(self, id_: str) -> str:
        """All that a job has printed."""
        return _reached(lambda: self._client.get_job_logs(id_))

    async def follow(self, id_: str) -> AsyncIterator[str]:
        """The lines that a job prints, from the first, until it has ended."""
        rest = ""
        async for text in self._client.tail_job_logs(id_):
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                yield line
        if rest:
            yield rest


def dashboard_url(address: str) -> str:
    """Of the cluster whose GCS is at an address; Ray's own environment variables come before it."""
    from ray.dashboard.utils import get_address_for_submission_client

    url: str = get_address_for_submission_client(address)
    return url


class _Refused(ClusterUnavailable):
    """Ray's dashboard answered with an error."""


def _reached(call: Callable[[], T]) -> T:
    """Ray raises ConnectionError where nothing answers and RuntimeError for every answer but 200."""
    import requests

    try:
        return call()
    except (ConnectionError, requests.RequestException) as error:
        raise ClusterUnavailable(f"Ray's dashboard does not answer: {error}") from error
    except RuntimeError as error:
        raise _Refused(f"Ray Jobs: {error}") from error


def _sweep_job(details: JobDetails) -> SweepJob | None:
    """None for a job that is no sweep's."""
    found = _SUBMISSION.fullmatch(details.submission_id or "")
    metadata: dict[str, Any] = details.metadata or {}
    if found is None or not {"sweep", "trials"} <= metadata.keys():
        return None
    return SweepJob(
        submission_id=found[0],
        sweep_id=found[1],
        attempt=int(found[2]),
        name=metadata["sweep"],
        trials=int(metadata["trials"]),
        status=details.status.value,
        exit_code=details.driver_exit_code,
        started_ms=details.start_time,
        ended_ms=details.end_time,
    )
