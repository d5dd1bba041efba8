"""Submitted sweeps as Ray Jobs: started exactly once under a submission id when it is their turn, looked up, stopped,
and their logs.

Keeps no state: Ray says what runs, the storage who waits. A job lives as long as its cluster; what it printed is kept
on the storage, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dft_sweeps.orchestration.cluster import ClusterUnavailable
from services.submitted_files import (
    CANCELLED,
    DIRECTORY,
    GONE,
    LOG,
    SUBMISSION,
    StoredJob,
    stored_job,
    stored_jobs,
    stored_log,
)
from services.waiting import changing, leave, waiting

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

T = TypeVar("T")

OPEN_JOBS = (
    "Ray's dashboard asks for no token: whoever reaches it can run anything on the cluster, whatever token the sweep "
    "API asks for"
)
_LOOK_S = 1.0
ENTRYPOINT = "dft_sweeps.cli.sweep_job"
STOP_S = 60
"""How long a job that is stopped may close its runs and end its engines before it is killed."""
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
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED; GONE where its cluster is no more."""
    exit_code: int | None = None
    """As of `dft-sweeps run`; None while it runs, and where it was stopped or killed."""
    started_ms: int | None = None
    ended_ms: int | None = None

    @property
    def ended(self) -> bool:
        return self.status in {"SUCCEEDED", "FAILED", "STOPPED", GONE}


class SweepJobs:
    """The sweeps' jobs of a cluster.

    Args:
        address: of the cluster's GCS or dashboard; Ray's own environment variables come before it.
        storage: where jobs of clusters that are gone have left their logs.

    Raises:
        ClusterUnavailable: Ray's dashboard does not answer. So do all methods.
    """

    def __init__(self, address: str | None, storage: Path) -> None:
        self._address, self._storage = address, storage

    @cached_property
    def _client(self) -> JobSubmissionClient:
        from services.ray_client import BoundedClient

        return BoundedClient(self._address)

    def all(self) -> list[SweepJob]:
        """Every job of a sweep that the cluster knows, the newest last, and after them those that wait."""
        queue = waiting(self._storage)  # before Ray is asked: who begins meanwhile is in both
        started = self.started()
        known = {job.submission_id for job in started}
        stored = [stored_job(self._storage, id_) for id_ in queue if id_ not in known]
        return [*started, *(waiting_job(job) for job in stored if job)]

    def started(self) -> list[SweepJob]:
        """Every job of a sweep that the cluster knows, the newest last."""
        found = [_sweep_job(details) for details in _reached(lambda: self._client.list_jobs())]
        return sorted((job for job in found if job), key=lambda job: (job.started_ms or 0, job.attempt))

    def get(self, id_: str) -> SweepJob | None:
        queue = waiting(self._storage)
        if known := self._started(id_):
            return known
        stored = stored_job(self._storage, id_)
        return self._not_started(stored, queue) if stored else None

    def last(self, sweep_id: str) -> SweepJob | None:
        """The newest attempt at a sweep, on this cluster or one before it."""
        queue = waiting(self._storage)
        stored = {job.attempt: job for job in stored_jobs(self._storage, sweep_id)}
        known = {job.attempt: job for job in self.started() if job.sweep_id == sweep_id}
        newest = max([*stored, *known], default=0)
        return known.get(newest) or (self._not_started(stored[newest], queue) if newest else None)

    def start(self, id_: str, directory: Path, name: str, trials: int) -> bool:
        """Starts the job that reads `directory`, and leaves its log there; False where there is a job of this id
        already."""
        command = shlex.join([sys.executable, "-m", ENTRYPOINT, str(directory)])
        # `-i`: when the job is stopped, its last words are still to come.
        script = f"{command} 2>&1 | tee -i -a {shlex.quote(str(directory / LOG))}; exit ${{PIPESTATUS[0]}}"
        try:
            _reached(
                lambda: self._client.submit_job(
                    entrypoint=f"exec bash -c {shlex.quote(script)}",
                    submission_id=id_,
                    metadata={"sweep": name, "trials": str(trials)},
                    runtime_env={"env_vars": _STOPPING},
                )
            )
        except Refused as refused:
            if "already exists" in str(refused):
                return False
            raise
        return True

    def start_waiting(self, at_once: int) -> None:
        """Starts those whose turn it is: `at_once` run at a time."""
        with changing(self._storage):
            if not waiting(self._storage):
                return
            started = self.started()
            room = at_once - sum(not job.ended for job in started)
            for id_ in waiting(self._storage):
                job = stored_job(self._storage, id_)
                if job and id_ not in {each.submission_id for each in started}:
                    if room <= 0:
                        return
                    self.start(id_, self._storage / DIRECTORY / id_, job.name, job.trials)
                    room -= 1
                leave(self._storage, id_)

    def stop(self, id_: str) -> bool:
        """Asks a job to end; False where it is about to begin or has ended. It has `STOP_S` seconds."""
        cancelled = self._storage / DIRECTORY / id_ / CANCELLED
        try:
            with changing(self._storage):
                if id_ in waiting(self._storage):
                    cancelled.touch()
                    leave(self._storage, id_)
                    return True
        except OSError:  # a storage that takes no more keeps nobody from stopping a job
            if id_ in waiting(self._storage):
                raise
        with contextlib.suppress(OSError):
            cancelled.touch()  # where it looks that begins deaf to signals
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
        """All that a job has printed, or Ray where that could not start it; of one that the cluster does not know, what
        the storage has."""
        try:
            text = _reached(lambda: self._client.get_job_logs(id_))
            return text.partition(_entry(id_))[2].partition("\n")[2] or text
        except Refused as refused:
            if "does not exist" not in str(refused):
                raise
            return stored_log(self._storage, id_)

    async def follow(self, id_: str) -> AsyncIterator[str]:
        """The lines that a job prints, from the first, until it has ended."""
        while id_ in await asyncio.to_thread(waiting, self._storage):  # noqa: ASYNC110 - another process starts it
            await asyncio.sleep(_LOOK_S)
        if await asyncio.to_thread(self._started, id_) is None:
            for line in (await asyncio.to_thread(self.log, id_)).splitlines():
                yield line
            return
        ray_said: list[str] | None = []
        async for line in self._tail(id_):
            if ray_said is None:
                yield line
            elif line.startswith(_entry(id_)):
                ray_said = None
            else:
                ray_said.append(line)
        for line in ray_said or ():
            yield line

    async def _tail(self, id_: str) -> AsyncIterator[str]:
        rest = ""
        async for text in self._client.tail_job_logs(id_):
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                yield line
        if rest:
            yield rest

    def _started(self, id_: str) -> SweepJob | None:
        try:
            return _sweep_job(_reached(lambda: self._client.get_job_info(id_)))
        except Refused as refused:
            if "does not exist" in str(refused):
                return None
            raise

    def _not_started(self, stored: StoredJob, queue: Sequence[str]) -> SweepJob:
        """A job that the cluster does not know. `queue`: who waited before it was asked."""
        id_ = stored.submission_id
        if id_ in queue or id_ in waiting(self._storage):
            return waiting_job(stored)
        cancelled = (self._storage / DIRECTORY / id_ / CANCELLED).exists()
        return _of_storage(stored, "STOPPED" if cancelled else GONE)


def dashboard_url(address: str) -> str:
    """Of the cluster whose GCS is at an address; Ray's own environment variables come before it."""
    from ray.dashboard.utils import get_address_for_submission_client

    url: str = get_address_for_submission_client(address)
    return url


def asks_for_token(address: str) -> bool:
    """Whether Ray's dashboard, and so the Jobs API, of the cluster whose GCS is at an address asks for a token. It
    tells whoever asks.

    Raises:
        ClusterUnavailable: it does not answer.
    """
    import requests

    mode = _reached(lambda: requests.get(f"{dashboard_url(address)}/api/authentication_mode", timeout=10).json())
    return mode == {"authentication_mode": "token"}


class Refused(ClusterUnavailable):
    """Ray's dashboard answered with an error."""


def _reached(call: Callable[[], T]) -> T:
    """Ray raises ConnectionError where nothing answers, RuntimeError for every answer but 200, and an error of its own
    where a token is asked for."""
    import requests
    from ray.exceptions import RayError

    try:
        return call()
    except (ConnectionError, requests.RequestException, RayError) as error:
        raise ClusterUnavailable(f"Ray's dashboard does not answer: {error}") from error
    except RuntimeError as error:
        raise Refused(f"Ray Jobs: {error}") from error


def _entry(id_: str) -> str:
    """The last of the lines with which Ray begins a job's log."""
    return f"Running entrypoint for job {id_}: "


def waiting_job(stored: StoredJob) -> SweepJob:
    return _of_storage(stored, "PENDING")


def _of_storage(stored: StoredJob, status: str) -> SweepJob:
    return SweepJob(stored.submission_id, stored.sweep_id, stored.attempt, stored.name, stored.trials, status)


def _sweep_job(details: JobDetails) -> SweepJob | None:
    """None for a job that is no sweep's."""
    found = SUBMISSION.fullmatch(details.submission_id or "")
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
