"""A sweep's progress as server-sent events: the lines its job prints, its job's status, how far its trials are.

An event's id says how many lines of which job came before it. A client that comes back with the last id it saw gets
every line after it, and status and trials as they are then.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from dft_sweeps.orchestration.cluster import ClusterUnavailable
from dft_sweeps.tracking.store import TrackingUnavailable
from services.jobs import SweepJob, SweepJobs
from services.sweep_views import SweepViews, job_model

POLL_S = 2.0
"""How often status and trials are looked at while the job is silent."""
ATTEMPTS = 3
"""How often the log of a job that has ended is read where it breaks off."""
_ID = re.compile(r"(s-[0-9a-f]{16}-a[1-9][0-9]{0,8})/([0-9]{1,9})")


async def numbered_lines(jobs: SweepJobs, submission_id: str, seen: int) -> AsyncIterator[tuple[int, str] | None]:
    """A job's lines from number `seen` + 1 on, with their numbers, until it has ended; None after `POLL_S` of
    silence."""
    waiting: asyncio.Queue[tuple[int, str] | BaseException | None] = asyncio.Queue(maxsize=1000)
    reading = asyncio.create_task(_read(jobs, submission_id, seen, waiting))
    try:
        while True:
            try:
                item = await asyncio.wait_for(waiting.get(), POLL_S)
            except TimeoutError:
                yield None
                continue
            if isinstance(item, BaseException):
                raise item
            if item is None:
                return
            yield item
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading


async def _read(
    jobs: SweepJobs, submission_id: str, seen: int, into: asyncio.Queue[tuple[int, str] | BaseException | None]
) -> None:
    """The end of the lines, or the error that ended them, is put after them."""
    number = 0
    try:
        async for line in jobs.follow(submission_id):
            number += 1
            if number > seen:
                await into.put((number, line))
    except Exception as error:  # Ray's client raises what its libraries raise, and whoever reads waits for an end
        reason = f"{type(error).__name__}: {error}"
        await into.put(ClusterUnavailable(f"the log of {submission_id} broke off: {reason}"))
    else:
        await into.put(None)


async def events(jobs: SweepJobs, views: SweepViews, sweep_id: str, last_event_id: str | None) -> AsyncIterator[str]:
    """The stream: `log`, `job`, `trials`, `unreachable` and, when the newest job has ended, `end`."""
    submission, seen = _parsed(last_event_id, sweep_id)
    job = await _run(views, jobs.get, submission) if submission else None
    if job is None:
        job, seen = await _run(views, jobs.last, sweep_id), 0
    shown: dict[str, Any] = {}
    broken, told = 0, ""
    while job is not None:
        try:
            async for item in numbered_lines(jobs, job.submission_id, seen):
                if item is not None:
                    seen, line = item
                    yield _event("log", {"submission_id": job.submission_id, "line": line}, job, seen)
                    if seen % 20:  # so that a job that prints without a pause does not hide how far its trials are
                        continue
                for kind, data in await _news(jobs, views, job, shown):
                    yield _event(kind, data, job, seen)
                yield ": still here\n\n"
            broken, told = 0, ""
        except ClusterUnavailable as error:
            broken += 1
            if told != str(error):
                told = str(error)
                yield _event("unreachable", {"error": told}, job, seen)
        for kind, data in await _news(jobs, views, job, shown):
            yield _event(kind, data, job, seen)
        try:
            newest = await _run(views, jobs.last, sweep_id)
        except ClusterUnavailable:  # of which `_news` tells
            yield ": still here\n\n"
            await asyncio.sleep(POLL_S)
            continue
        last = newest is None or newest.submission_id == job.submission_id
        if 0 < broken < ATTEMPTS or (newest is not None and last and not newest.ended):
            # The log may be whole again in a moment, and a job's end may come after its log's.
            yield ": still here\n\n"
            await asyncio.sleep(POLL_S)
        elif last:
            ended = job_model(newest or job)
            assert ended is not None
            yield _event("end", ended.model_dump(), job, seen)
            return
        else:
            job, seen, broken = newest, 0, 0


async def _news(
    jobs: SweepJobs, views: SweepViews, job: SweepJob, shown: dict[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    """What has changed since it was `shown`. While a service does not answer, that is all there is to say."""
    now: dict[str, Any] = {}
    try:
        found = job_model(await _run(views, jobs.get, job.submission_id))
        now["job"] = found.model_dump() if found else None
        status = await views.status(job.sweep_id)
        now["trials"] = {"sweep": status.sweep.model_dump(exclude={"job"}), "trials": status.trials}
    except (ClusterUnavailable, TrackingUnavailable) as error:
        now["unreachable"] = {"error": str(error)}
    news = [(kind, data) for kind, data in now.items() if data is not None and shown.get(kind) != data]
    shown.pop("unreachable", None)
    shown |= now
    return news


async def _run(views: SweepViews, call: Any, argument: str) -> SweepJob | None:
    found: SweepJob | None = await views.run(call, argument)
    return found


def _parsed(last_event_id: str | None, sweep_id: str) -> tuple[str | None, int]:
    """The job and the number of lines of an event's id; nothing of one that is not this sweep's."""
    found = _ID.fullmatch(last_event_id or "")
    if found is None or not found[1].startswith(f"{sweep_id}-"):
        return None, 0
    return found[1], int(found[2])


def _event(kind: str, data: dict[str, Any], job: SweepJob, seen: int) -> str:
    return f"id: {job.submission_id}/{seen}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"
