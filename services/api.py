"""The sweep API: submit, plan, list, look at, follow and cancel sweeps over HTTP.

It has no database: Ray Jobs say what runs, MLflow says what was measured. Any number of replicas answer alike, and one
that dies takes nothing with it but the streams it was sending.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Response
from fastapi import Path as PathParameter
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPBearer

from dft_sweeps import __version__
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.placement import ClusterFacts
from services import api_events
from services.allowed import Limits
from services.api_errors import PROBLEMS, problems
from services.api_guard import OPEN, Guard
from services.api_models import Cancelled, Health, RerunBody, SpecBody, Submission, SweepStatus, SweepSummary
from services.cancelling import cancel
from services.checking import Busy, Check, CheckedSpec, Checker, Rerun, SpecText, Surroundings
from services.jobs import SweepJob, SweepJobs
from services.service_files import read_tracking
from services.submissions import submit
from services.sweep_views import Progress, SweepViews, Unknown
from services.tidying import keep_starting, keep_tidy

MOST_STREAMS = 500
MOST_LISTED = 10_000
_QUICK_MLFLOW = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""A server that is down is said to be so soon, where MLflow would try for minutes."""
SweepName = Annotated[str, PathParameter(max_length=64, description="A sweep's id, the beginning of one, or a name.")]


@dataclass(frozen=True)
class ApiSettings:
    """What a replica needs. Holds no secret: Serve keeps it, and Ray shows some of what it keeps."""

    storage: Path
    token_digest: str
    check: Check
    progress: Progress
    limits: Limits
    cluster: Callable[[], ClusterFacts]
    """Tells what plans count with: nodes come and go."""
    ray_address: str | None = None
    """Of the cluster's GCS; by default as Ray's environment has it."""


@dataclass
class _Parts:
    """What the routes work with."""

    settings: ApiSettings
    jobs: SweepJobs
    views: SweepViews
    checker: Checker
    tracking_uri: str
    submitting: ThreadPoolExecutor
    streams: int = 0

    async def checked(self, asked: SpecText | Rerun) -> CheckedSpec:
        settings = self.settings
        cluster = await self.views.run(settings.cluster)
        return await self.checker.check(asked, Surroundings(cluster, self.tracking_uri, settings.storage))

    async def started(self, asked: SpecText | Rerun, response: Response) -> Submission:
        """Submits what is asked for, and sets the response's status."""
        checked = await self.checked(asked)
        if checked.refusal:
            raise SpecError(checked.refusal)
        job, created = await asyncio.get_running_loop().run_in_executor(self.submitting, self.submitted, checked)
        response.status_code = 201 if created else 200
        return Submission(sweep_id=job.sweep_id, submission_id=job.submission_id, status=job.status, created=created)

    def submitted(self, checked: CheckedSpec) -> tuple[SweepJob, bool]:
        settings = self.settings

        def finished() -> set[str]:
            return self.views.finished_now(checked.training_ids, checked.measures, checked.sweep_id)

        return submit(checked, self.jobs, settings.storage, settings.limits, finished)

    def stream(self, texts: AsyncIterator[str], media_type: str) -> StreamingResponse:
        if self.streams >= MOST_STREAMS:
            raise Busy(f"{MOST_STREAMS} clients are following sweeps")
        return StreamingResponse(self._counted(texts), media_type=media_type, headers={"Cache-Control": "no-store"})

    async def _counted(self, texts: AsyncIterator[str]) -> AsyncIterator[str]:
        self.streams += 1
        try:
            async for text in texts:
                yield text
        finally:
            self.streams -= 1


def create_app(settings: ApiSettings, jobs: SweepJobs | None = None) -> FastAPI:
    """The API as an ASGI application."""
    import mlflow.tracking  # noqa: F401 - threads that import it at the same time would find it half made

    os.environ |= {name: value for name, value in _QUICK_MLFLOW.items() if name not in os.environ}
    tracking = read_tracking(settings.storage)
    tracking.enter()
    jobs = jobs or SweepJobs(settings.ray_address, settings.storage)
    parts = _Parts(
        settings=settings,
        jobs=jobs,
        views=SweepViews(jobs, tracking.uri, settings.progress),
        checker=Checker(settings.check, settings.limits),
        tracking_uri=tracking.uri,
        submitting=ThreadPoolExecutor(4, "submit"),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tidying = asyncio.create_task(keep_tidy(jobs, parts.views, settings.storage, tracking.uri))
        starting = asyncio.create_task(keep_starting(jobs, parts.views, settings.limits.at_once))
        yield
        tidying.cancel()
        starting.cancel()
        parts.checker.close()

    app = FastAPI(
        title="DFT sweeps",
        version=__version__,
        summary="Submit sweeps of fine-tuning objectives to this cluster, and steer them.",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        lifespan=lifespan,
    )
    problems(app)
    _health(app)
    _specs(app, parts)
    _reading(app, parts)
    _streams(app, parts)
    _steering(app, parts)
    app.add_middleware(Guard, token_digest=settings.token_digest, body_bytes=settings.limits.body_bytes)
    return app


_BEARER = Depends(HTTPBearer(auto_error=False, description="The guard asks for it; this says so in the schema."))


_FOUND = {200: {"model": Submission, "description": "It runs already, or has nothing left to do."}}


def _route(*statuses: int, answers: Mapping[int, Any] = MappingProxyType({})) -> dict[str, Any]:
    """What all routes behind the guard have in common, with the further errors and answers of one."""
    errors = sorted({400, 401, 413, 422, 503, *statuses})
    return {"dependencies": [_BEARER], "responses": {**answers, **{status: PROBLEMS[status] for status in errors}}}


def _health(app: FastAPI) -> None:
    @app.get(OPEN)
    async def health() -> Health:
        """Whether the API answers. Needs no token."""
        return Health(status="ok", version=__version__)


def _specs(app: FastAPI, parts: _Parts) -> None:
    @app.post("/v1/sweeps", status_code=201, **_route(409, 429, answers=_FOUND))
    async def submit_sweep(body: SpecBody, response: Response) -> Submission:
        """Starts a sweep, or finds the job that runs it already: 201 where a job was started, 200 where not. A job that
        runs only a part of it is a 409."""
        return await parts.started(SpecText(body.spec, body.overrides), response)

    @app.post("/v1/plans", **_route(429))
    async def plan_sweep(body: SpecBody) -> dict[str, Any]:
        """Checks a spec and says what it would run, as `dft-sweeps plan --json`. Starts nothing."""
        return (await parts.checked(SpecText(body.spec, body.overrides))).plan


def _reading(app: FastAPI, parts: _Parts) -> None:
    @app.get("/v1/sweeps", **_route())
    async def list_sweeps(
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED, description="List the newest so many.")] = 50,
    ) -> list[SweepSummary]:
        """The sweeps, newest first."""
        return await parts.views.sweeps(limit)

    @app.get("/v1/sweeps/{sweep}", **_route(404))
    async def sweep_status(sweep: SweepName) -> SweepStatus:
        """How far each trial of a sweep is."""
        return await parts.views.status(sweep)


def _streams(app: FastAPI, parts: _Parts) -> None:
    @app.get("/v1/sweeps/{sweep}/logs", response_class=Response, **_route(404, 429))
    async def sweep_logs(
        sweep: SweepName,
        follow: Annotated[bool, Query(description="Until the job has ended.")] = False,
        skip: Annotated[int, Query(ge=0, le=10**9, description="Lines to leave out from the first.")] = 0,
    ) -> Response:
        """What the sweep's newest job prints, as plain text."""
        job = await _job(parts, sweep)
        if follow:
            lines = _text(api_events.numbered_lines(parts.jobs, job.submission_id, skip))
            return parts.stream(lines, "text/plain")
        text = await parts.views.run(parts.jobs.log, job.submission_id)
        return Response("".join(text.splitlines(keepends=True)[skip:]), media_type="text/plain")

    @app.get("/v1/sweeps/{sweep}/events", response_class=StreamingResponse, **_route(404, 429))
    async def sweep_events(
        sweep: SweepName, last_event_id: Annotated[str | None, Header(max_length=64)] = None
    ) -> StreamingResponse:
        """Server-sent events until the sweep's newest job has ended: `log` (a line), `job` and `trials` (whenever they
        change), `unreachable` (what does not answer now), `end`. With the header Last-Event-ID it goes on after that
        event."""
        job = await _job(parts, sweep)
        stream = api_events.events(parts.jobs, parts.views, job.sweep_id, last_event_id)
        return parts.stream(stream, "text/event-stream")


def _steering(app: FastAPI, parts: _Parts) -> None:
    @app.post("/v1/sweeps/{sweep}/rerun", status_code=201, **_route(404, 409, 429, answers=_FOUND))
    async def rerun_sweep(sweep: SweepName, body: RerunBody, response: Response) -> Submission:
        """Runs what is missing of a recorded sweep, or some of its trials again, as `dft-sweeps rerun`."""
        found = (await parts.views.status(sweep)).sweep.sweep_id
        asked = Rerun(found, body.failed, tuple(body.cells), body.figure, body.fresh, body.seeds)
        return await parts.started(asked, response)

    @app.post("/v1/sweeps/{sweep}/cancel", **_route(404))
    async def cancel_sweep(sweep: SweepName) -> Cancelled:
        """Ends a sweep's job, and answers when it has ended and nothing of it is left. Safe to repeat. What is trained
        stays: submitting the sweep again goes on from there."""
        status = await parts.views.status(sweep)
        return await cancel(parts.jobs, parts.views, parts.settings.storage, parts.tracking_uri, status.sweep.sweep_id)


async def _job(parts: _Parts, sweep: str) -> SweepJob:
    job = await parts.views.job(sweep)
    if job is None:
        raise Unknown(f"{sweep} is known to MLflow, but was not submitted here, so there are no lines")
    return job


async def _text(lines: AsyncIterator[tuple[int, str] | None]) -> AsyncIterator[str]:
    async for item in lines:
        if item is not None:
            yield f"{item[1]}\n"
