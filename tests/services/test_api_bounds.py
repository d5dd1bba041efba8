"""How much of each thing the sweep API lets in: sweeps that run and wait, sweeps listed, streams; and that its answers
follow a cluster whose nodes come and go."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import requests
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from dft_sweeps.orchestration.cluster import free_port
from dft_sweeps.spec.placement import ClusterFacts
from dft_sweeps.tracking.writer import Tracker
from services import api
from tests.services.in_process_api import HEADERS, SPEC, WrittenDown, running_api, running_app

NODES = [2]
"""CPUs of a cluster's nodes."""


def facts() -> ClusterFacts:
    return ClusterFacts(sum(NODES), 0)


@pytest.fixture(scope="module")
def jobs() -> WrittenDown:
    return WrittenDown()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, jobs: WrittenDown) -> Iterator[TestClient]:
    with running_api(tmp_path_factory.mktemp("storage"), jobs, cluster=facts, sweeps=2) as client:
        yield client


def submitted(client: TestClient, *overrides: str) -> requests.Response:
    return client.post("/v1/sweeps", json={"spec": SPEC, "set": overrides})


def test_a_node_that_joins_or_leaves_counts_at_once(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        plan = client.post("/v1/plans", json={"spec": SPEC, "set": ["execution.workers=3"]})
        return str(plan.json()["missing"])

    assert "the cluster has 2, and 4 are needed" in missing()
    monkeypatch.setattr("tests.services.test_api_bounds.NODES", [2, 2])
    assert missing() == ""
    monkeypatch.undo()
    assert "the cluster has 2, and 4 are needed" in missing()


def test_no_more_sweeps_run_and_wait_than_may(client: TestClient, jobs: WrittenDown) -> None:
    first, second = (submitted(client, f"trial.train.seed={seed}") for seed in (1, 2))
    assert (first.status_code, second.status_code) == (201, 201)
    refused = submitted(client, "trial.train.seed=3")
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
    assert "2 sweeps run and wait" in refused.json()["error"]
    assert submitted(client, "trial.train.seed=2").status_code == 200  # it is one of them
    jobs.end(first.json()["submission_id"], "SUCCEEDED")
    assert submitted(client, "trial.train.seed=3").status_code == 201


def test_as_many_sweeps_are_listed_as_asked_for(client: TestClient, jobs: WrittenDown, tmp_path: Path) -> None:
    for number in range(5):
        jobs.start(f"s-{number:016x}-a1", tmp_path, f"sweep-{number}", 1)
    every = [row["sweep_id"] for row in client.get("/v1/sweeps").json()]
    assert every[:5] == [f"s-{number:016x}" for number in (4, 3, 2, 1, 0)]
    assert [row["sweep_id"] for row in client.get("/v1/sweeps", params={"limit": 2}).json()] == every[:2]
    assert [client.get("/v1/sweeps", params={"limit": limit}).status_code for limit in (0, 10_001, "x")] == [422] * 3


def test_sweeps_beyond_the_listed_ones_do_not_count_as_waiting(tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"))
    jobs = WrittenDown()
    for number in range(3):
        sweep_id = f"s-{number:016x}"
        trial = {"training_id": f"t-{number}", "name": "", "axes": {}}
        tracker.open_sweep(f"sweep-{number}", sweep_id, "", [trial], "m")
        jobs.start(f"{sweep_id}-a1", tmp_path, f"sweep-{number}", 1)
    with running_api(tmp_path, jobs) as client:
        (listed,) = client.get("/v1/sweeps", params={"limit": 1}).json()
    assert (listed["sweep_id"], listed["status"]) == ("s-0000000000000002", "RUNNING")


class Silent(WrittenDown):
    """Jobs that never print anything."""

    async def follow(self, id_: str) -> AsyncIterator[str]:
        await asyncio.sleep(3600)
        yield ""


@contextlib.contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def test_streams_are_counted_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MOST_STREAMS", 3)
    jobs = Silent()
    jobs.start("s-0123456789abcdef-a1", tmp_path, "silent", 1)
    with listening(running_app(tmp_path, jobs)) as url, contextlib.ExitStack() as open_:
        begun = []

        def stream(what: str) -> requests.Response:
            found = requests.get(f"{url}/v1/sweeps/silent/{what}", headers=HEADERS, stream=True, timeout=60)
            if found.ok:
                begun.append(found.iter_content(1))  # whose end would close the connection
                next(begun[-1])
            return open_.enter_context(found)

        streams = [stream("events") for _ in range(3)]
        assert [each.status_code for each in streams] == [200] * 3
        for what in ("events", "logs?follow=true"):
            assert stream(what).status_code == 429
        assert requests.get(f"{url}/v1/sweeps/silent", headers=HEADERS, timeout=60).ok
        streams[0].close()
        deadline = time.monotonic() + 30
        while (again := stream("events")).status_code == 429 and time.monotonic() < deadline:
            time.sleep(0.5)
        assert again.status_code == 200
