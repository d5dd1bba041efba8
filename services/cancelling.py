"""Ending a sweep's job, and waiting until nothing of it is left."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from dft_sweeps.orchestration.cluster import ClusterUnavailable
from services.api_models import Cancelled
from services.jobs import STOP_S, SweepJobs
from services.sweep_views import SweepViews
from services.tidying import tidy

_LOOK_S = 0.5


async def cancel(jobs: SweepJobs, views: SweepViews, storage: Path, tracking_uri: str, sweep_id: str) -> Cancelled:
    """Stops the sweep's newest job and tidies up after it. Where the caller goes away meanwhile, the job ends all the
    same, and what it left is tidied up later.

    Raises:
        ClusterUnavailable: Ray does not answer, or the job is still there some time after it should have been killed.
    """
    job = await views.run(jobs.last, sweep_id)
    running = job is not None and not job.ended
    deadline = time.monotonic() + STOP_S + 30
    asked = False
    while job is not None and not job.ended:
        # A job that is only about to begin cannot be stopped yet.
        asked = asked or await views.run(jobs.stop, job.submission_id)
        if time.monotonic() > deadline:
            raise ClusterUnavailable(f"the job {job.submission_id} was stopped, and is still {job.status}")
        await asyncio.sleep(_LOOK_S)
        job = await views.run(jobs.get, job.submission_id)
    await views.run(tidy, storage, tracking_uri, sweep_id)
    return Cancelled(
        sweep_id=sweep_id,
        submission_id=job.submission_id if job else None,
        status=job.status if job else "NONE",
        cancelled=running,
    )
