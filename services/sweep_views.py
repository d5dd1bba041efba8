"""What is told of sweeps: MLflow's measurements and Ray's jobs put together. Keeps nothing but answers of a moment."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, TypeVar, cast

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking.reader import Reader, SweepRow
from services.api_models import Job, SweepStatus, SweepSummary
from services.jobs import SweepJob, SweepJobs
from services.submitted_files import GONE

T = TypeVar("T")

FRESH_S = 1.0
"""Equal questions that come within this time get one answer: clients that poll cost MLflow no more than one does."""
Progress = Callable[[Reader, SweepRow], list[dict[str, Any]]]
"""A function that tells how far a sweep's trials are."""


class Unknown(LookupError):
    """Neither Ray nor MLflow knows a sweep of this id."""


class SweepViews:
    """Reads for many clients at once, in at most `threads` threads.

    Raises:
        ClusterUnavailable, TrackingUnavailable: Ray or MLflow does not answer. So do all methods.
    """

    def __init__(self, jobs: SweepJobs, tracking_uri: str, progress: Progress, threads: int = 8) -> None:
        self._jobs, self._tracking_uri, self._progress = jobs, tracking_uri, progress
        self._threads = ThreadPoolExecutor(threads, "views")
        self._answers: dict[tuple[Any, ...], tuple[float, asyncio.Task[Any]]] = {}
        self._known_reader: Reader | None = None

    async def sweeps(self, limit: int) -> list[SweepSummary]:
        """The newest sweeps, newest first; those that MLflow has nothing of yet before the others."""
        return await self._shared(self._sweeps, limit)

    async def status(self, wanted: str) -> SweepStatus:
        """A sweep by its id, the beginning of one or its name.

        Raises:
            Unknown: there is none, or several are meant; says which there are.
        """
        return await self._shared(self._status, wanted)

    async def job(self, wanted: str) -> SweepJob | None:
        """The newest job of a sweep, by the sweep's id, the beginning of one or its name. Raises `Unknown`."""
        return await self._shared(self._job, wanted)

    def finished_now(self, training_ids: Sequence[str], measures: str, sweep_id: str) -> set[str]:
        """Which of these trials of a sweep MLflow knows as finished, in any sweep, or stopped in this one."""
        reader = self._reader()
        return set(reader.finished_trials(training_ids, measures, sweep_id)) if reader else set()

    def running_now(self) -> set[str]:
        """Sweeps that MLflow believes to be under way."""
        reader = self._reader()
        return {row.sweep_id for row in reader.sweeps() if row.status == "RUNNING"} if reader else set()

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """A blocking call, in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    async def _shared(self, call: Callable[..., T], *arguments: Any) -> T:
        now = time.monotonic()
        self._answers = {
            key: (begun, task)
            for key, (begun, task) in self._answers.items()
            if not task.done() or now - begun < FRESH_S
        }
        key = (call.__name__, *arguments)
        if key not in self._answers:
            task = asyncio.create_task(self.run(call, *arguments))
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody may wait
            self._answers[key] = now, task
        return cast(T, await asyncio.shield(self._answers[key][1]))

    def _reader(self) -> Reader | None:
        """None while there is no database yet."""
        if self._known_reader is None:
            try:
                self._known_reader = Reader(self._tracking_uri)
            except SpecError:
                return None
        return self._known_reader

    def _sweeps(self, limit: int) -> list[SweepSummary]:
        reader = self._reader()
        rows, older = reader.newest_sweeps(limit) if reader else ([], False)
        newest = {job.sweep_id: job for job in self._jobs.all()}
        known = {row.sweep_id for row in rows} | {job.sweep_id for job in newest.values() if job.status == "SUCCEEDED"}
        if reader and older and newest.keys() - known:
            known |= {row.sweep_id for row in reader.sweeps()}
        waiting = [_of_job(job) for job in reversed(newest.values()) if job.sweep_id not in known]
        return [*waiting, *(_of_row(row, newest.get(row.sweep_id)) for row in rows)][:limit]

    def _status(self, wanted: str) -> SweepStatus:
        row, job = self._find(wanted)
        if row is None:
            assert job is not None
            return SweepStatus(sweep=_of_job(job), trials=[])
        reader = self._reader()
        assert reader is not None
        known = None if job and job.status == GONE else job
        return SweepStatus(sweep=_of_row(row, known), trials=finite(self._progress(reader, row)))

    def _job(self, wanted: str) -> SweepJob | None:
        return self._find(wanted)[1]

    def _find(self, wanted: str) -> tuple[SweepRow | None, SweepJob | None]:
        jobs = self._jobs.all()
        named = [job for job in jobs if wanted == job.name][-1:] or [job for job in jobs if wanted == job.sweep_id]
        row, unknown = self._row(wanted)
        # One that waits has not started, and is newer than all that have.
        if named and (row is None or (named[-1].started_ms or math.inf) > row.started.timestamp() * 1000):
            return self._row(named[-1].sweep_id)[0], named[-1]
        if row:
            return row, self._jobs.last(row.sweep_id)
        begun = {job.sweep_id: job for job in jobs if job.sweep_id.startswith(wanted)}
        if len(begun) == 1:
            return None, begun.popitem()[1]
        if gone := self._jobs.last(wanted):
            return None, gone
        raise Unknown(unknown)

    def _row(self, wanted: str) -> tuple[SweepRow | None, str]:
        """The sweep as MLflow has it; where it has none, why."""
        reader = self._reader()
        if reader is None:
            return None, f"no sweep {wanted!r}: there are no sweeps yet"
        try:
            return reader.find_sweep(wanted), ""
        except SpecError as error:
            return None, str(error)


def _of_row(row: SweepRow, job: SweepJob | None) -> SweepSummary:
    return SweepSummary(
        sweep_id=row.sweep_id,
        name=row.name,
        status=row.status,
        started=row.started.isoformat(timespec="seconds"),
        trials=row.trials,
        finished=row.finished,
        to_propose=row.to_propose,
        run_id=row.run_id,
        experiment_id=row.experiment_id,
        job=job_model(job),
    )


def _of_job(job: SweepJob) -> SweepSummary:
    """A sweep that MLflow has nothing of yet, or will never have: its job failed first."""
    return SweepSummary(
        sweep_id=job.sweep_id,
        name=job.name,
        status=job.status if job.ended else "PENDING",
        started=None,
        trials=job.trials,
        finished=0,
        to_propose=0,
        run_id=None,
        experiment_id=None,
        job=job_model(job),
    )


def job_model(job: SweepJob | None) -> Job | None:
    if job is None:
        return None
    return Job(**{name: value for name, value in asdict(job).items() if name in Job.model_fields})


def finite(value: Any) -> Any:
    """`value` with NaN and infinities, which JSON lacks, as strings."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
