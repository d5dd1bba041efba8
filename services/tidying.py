"""After jobs that have ended: the next ones start, and of those that were killed the engines end, and their runs in
MLflow stop saying RUNNING.

A job that ends by itself, or by Ctrl-C, tidies up itself; then there is nothing to do here. Everything can be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from dft_sweeps.orchestration.cluster import ClusterUnavailable
from dft_sweeps.orchestration.locks import SweepLocks, try_lock
from dft_sweeps.tracking.store import TrackingUnavailable
from dft_sweeps.tracking.writer import Tracker
from services.jobs import SweepJobs
from services.submitted_files import stored_jobs
from services.sweep_views import SweepViews

EVERY_S, START_EVERY_S = 20.0, 2.0
logger = logging.getLogger(__name__)


def tidy(storage: Path, tracking_uri: str, sweep_id: str) -> list[str]:
    """Ends the engines of a sweep whose job has ended, and sets KILLED what MLflow has RUNNING of it.

    What belongs to a process that lives is left alone. Returns the run ids set KILLED.
    """
    locks = SweepLocks(storage, sweep_id)
    with locks.taking():
        locks.join()
        alone = locks.leave()
        killed = Tracker(tracking_uri, None).reconcile(sweep_id) if alone else []
    _stop_pools(storage, sweep_id)
    return killed


async def keep_tidy(jobs: SweepJobs, views: SweepViews, storage: Path, tracking_uri: str) -> None:
    """Tidies up after every job that failed or was stopped, and those that ended with their cluster before this began,
    once each, for as long as this runs."""
    tidied: set[str] = set()
    before: set[str] | None = None
    failures: set[tuple[str, str]] = set()
    while True:
        with _tried_again("looking for jobs that have ended", failures):
            newest = {job.sweep_id: job for job in await views.run(jobs.all)}
            if before is None:
                running = await views.run(views.running_now)
                before = {sweep_id for sweep_id in running - newest.keys() if stored_jobs(storage, sweep_id)}
            ended = [
                (job.submission_id, job.sweep_id) for job in newest.values() if job.status in {"FAILED", "STOPPED"}
            ]
            for key, sweep_id in [*((id_, id_) for id_ in before), *ended]:
                if key not in tidied:
                    with _tried_again(f"tidying up after {sweep_id}", failures):
                        await _tidied(views, storage, tracking_uri, sweep_id)
                        tidied.add(key)
        await asyncio.sleep(EVERY_S)


async def keep_starting(jobs: SweepJobs, views: SweepViews, at_once: int) -> None:
    """Starts sweeps that wait when it is their turn, for as long as this runs."""
    failures: set[tuple[str, str]] = set()
    while True:
        with _tried_again("starting sweeps that wait", failures):
            await views.run(jobs.start_waiting, at_once)
        await asyncio.sleep(START_EVERY_S)


@contextlib.contextmanager
def _tried_again(what: str, failures: set[tuple[str, str]]) -> Iterator[None]:
    """A boundary: no error of one round ends those that follow. Each kind is logged once, until a round goes well."""
    try:
        yield
    except Exception as error:
        kind = (what, type(error).__name__)
        if kind not in failures:
            failures.add(kind)
            outage = isinstance(error, ClusterUnavailable | TrackingUnavailable)
            logger.warning("%s failed, and is tried again: %s: %s", what, kind[1], error, exc_info=not outage)
    else:
        failures.difference_update([kind for kind in failures if kind[0] == what])


async def _tidied(views: SweepViews, storage: Path, tracking_uri: str, sweep_id: str) -> None:
    if killed := await views.run(tidy, storage, tracking_uri, sweep_id):
        logger.warning("the job of %s was killed; set its runs KILLED: %s", sweep_id, killed)


def _stop_pools(storage: Path, sweep_id: str) -> None:
    """Ends those of the sweep's own pools that no process holds the name of."""
    import ray
    from ray import serve

    from services.pool import stop_pool

    if not ray.is_initialized():  # then no pool is in reach
        return
    for name in serve.status().applications:
        lock = storage / "locks" / f"{name}.lock"
        if re.fullmatch(rf"evaluation-{sweep_id}(-[0-9]+)?", name) and lock.exists():
            with lock.open("a") as file:
                if try_lock(file):
                    stop_pool(name)
