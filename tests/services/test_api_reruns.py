"""Reruns over HTTP: what is refused, and what a job that runs already does for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from starlette.testclient import TestClient

from dft_sweeps.tracking.writer import Tracker
from tests.services.in_process_api import SPEC, WrittenDown, running_api


@pytest.fixture(scope="module")
def jobs() -> WrittenDown:
    return WrittenDown()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def client(storage: Path, jobs: WrittenDown) -> Iterator[TestClient]:
    with running_api(storage, jobs) as client:
        yield client


@pytest.fixture(scope="module")
def sweep_id(client: TestClient, storage: Path, jobs: WrittenDown) -> str:
    """A recorded sweep of two trials, whose first job failed before it ran any."""
    first = submitted(client).json()
    jobs.end(first["submission_id"], "FAILED")
    spec = (storage / "submissions" / first["submission_id"] / "spec.yaml").read_text()
    trials = [{"training_id": f"t-{kind}", "name": kind, "axes": {}} for kind in ("sft", "dft")]
    tracker = Tracker(f"sqlite:///{storage}/mlflow.db", str(storage / "artifacts"))
    tracker.open_sweep("end-to-end", first["sweep_id"], spec, trials, "m")
    return str(first["sweep_id"])


def submitted(client: TestClient) -> requests.Response:
    return client.post("/v1/sweeps", json={"spec": SPEC})


def rerun(client: TestClient, sweep_id: str, **asked: object) -> requests.Response:
    return client.post(f"/v1/sweeps/{sweep_id}/rerun", json=asked)


def test_what_its_job_would_refuse_is_refused(client: TestClient, sweep_id: str, jobs: WrittenDown) -> None:
    before = dict(jobs.known)
    answer = rerun(client, sweep_id, failed=True, seeds=3)
    assert answer.status_code == 422 and "ask for one of the two" in answer.json()["error"], answer.text
    assert jobs.known == before


DFT = ["train.objective.kind=dft"]


@pytest.mark.parametrize(
    ("runs", "asked", "served"),
    [
        ({"cells": DFT}, {"cells": DFT}, True),
        ({"cells": DFT}, {"cells": ["train.objective.kind=sft"]}, False),
        ({"cells": DFT}, {"cells": DFT, "fresh": True}, False),
        ({"cells": DFT}, {}, False),
        ({"cells": DFT}, None, False),
        ({}, {"cells": DFT}, True),
        ({}, None, True),
        ({}, {"fresh": True}, False),
        ({}, {"failed": True}, False),  # it may have them behind it
        ({"fresh": True}, {"fresh": True}, True),
        ({"fresh": True}, {"cells": DFT}, True),
    ],
)
def test_a_job_that_runs_serves_what_it_does_and_nothing_else(
    client: TestClient, sweep_id: str, jobs: WrittenDown, runs: dict[str, object], asked: dict[str, object] | None,
    served: bool,
) -> None:  # fmt: skip
    first = rerun(client, sweep_id, **runs)
    assert first.status_code == 201, first.text
    before, job = dict(jobs.known), first.json()["submission_id"]
    answer = submitted(client) if asked is None else rerun(client, sweep_id, **asked)
    if served:
        assert (answer.status_code, answer.json()) == (200, first.json() | {"created": False})
    else:
        assert answer.status_code == 409 and f"{job} has not ended" in answer.json()["error"], answer.text
        assert "when it has ended" in answer.json()["hint"]
        assert not runs or f"rerun --cell={DFT[0]}" in answer.json()["error"]
    assert jobs.known == before
    jobs.end(job, "FAILED")
    if not served:
        again = submitted(client)
        assert again.status_code == 201
        jobs.end(again.json()["submission_id"], "FAILED")
