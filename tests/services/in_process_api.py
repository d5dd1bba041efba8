"""The sweep API in this process: real checks in real child processes, and jobs that are written down, not run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from dft_sweeps.cli.spec_check import check_spec, trials_progress
from dft_sweeps.spec.placement import ClusterFacts
from services.allowed import SECRET, Limits
from services.api import ApiSettings, create_app
from services.api_guard import digest_of
from services.jobs import SweepJob
from services.service_files import write_tracking

TOKEN = "a-token-of-the-tests"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
SPEC = (Path(__file__).parent.parent / "end_to_end" / "sweep.yaml").read_text()


class WrittenDown:
    """Jobs as Ray would list them, without a cluster."""

    def __init__(self) -> None:
        self.known: dict[str, SweepJob] = {}

    def all(self) -> list[SweepJob]:
        return list(self.known.values())

    def get(self, id_: str) -> SweepJob | None:
        return self.known.get(id_)

    def last(self, sweep_id: str) -> SweepJob | None:
        return next((job for job in reversed(self.known.values()) if job.sweep_id == sweep_id), None)

    def start_waiting(self, at_once: int) -> None:
        assert at_once

    def start(self, id_: str, directory: Path, name: str, trials: int) -> bool:
        sweep_id, attempt = id_.rsplit("-a", 1)
        self.known[id_] = SweepJob(id_, sweep_id, int(attempt), name, trials, "RUNNING")
        return True

    def stop(self, id_: str) -> bool:
        self.end(id_, "STOPPED")
        return True

    def end(self, id_: str, status: str) -> None:
        job = self.known[id_]
        self.known[id_] = SweepJob(job.submission_id, job.sweep_id, job.attempt, job.name, job.trials, status)

    def log(self, id_: str) -> str:
        return "first\nsecond\nthird\n"

    async def follow(self, id_: str) -> AsyncIterator[str]:
        for line in self.log(id_).splitlines():
            yield line


def two_cpus() -> ClusterFacts:
    return ClusterFacts(2, 0)


@contextmanager
def running_api(storage: Path, jobs: object, **options: Any) -> Iterator[TestClient]:
    """A client with the token. What would be a 500 is an exception of the test."""
    with TestClient(running_app(storage, jobs, **options), headers=HEADERS) as client:
        yield client


def running_app(
    storage: Path,
    jobs: object,
    cluster: Callable[[], ClusterFacts] = two_cpus,
    tracking_uri: str = "",
    **limits: object,
) -> FastAPI:
    write_tracking(storage, tracking_uri or f"sqlite:///{storage}/mlflow.db")
    limits = {"at_once": 1000} | limits
    allowed = Limits(paths=(str(storage),), forbidden=(str(storage / SECRET),), **limits)  # type: ignore[arg-type]
    settings = ApiSettings(storage, digest_of(TOKEN), check_spec, trials_progress, allowed, cluster)
    return create_app(settings, jobs)  # type: ignore[arg-type]
