"""A dashboard of Ray that does not answer as it should: to the service, that is an outage."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from dft_sweeps.orchestration.cluster import ClusterUnavailable
from services import ray_client
from services.jobs import SweepJobs
from services.submitted_files import StoredJob, store_job
from services.waiting import changing, join, waiting


@pytest.fixture(autouse=True)
def no_other_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


class AsksForAToken(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(401)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def closed() -> Iterator[str]:
    """The address of one that asks for a token."""
    server = HTTPServer(("127.0.0.1", 0), AsksForAToken)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_one_that_asks_for_a_token_is_an_outage(closed: str, tmp_path: Path) -> None:
    with pytest.raises(ClusterUnavailable, match="authentication"):
        SweepJobs(closed, tmp_path).all()


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of one that lets everyone in and says nothing."""
    monkeypatch.setattr(ray_client, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "call",
    [
        lambda jobs: jobs.all(),
        lambda jobs: jobs.get("s-0123456789abcdef-a1"),
        lambda jobs: jobs.start("s-0123456789abcdef-a1", Path(), "mine", 1),
        lambda jobs: jobs.stop("s-0123456789abcdef-a1"),
        lambda jobs: jobs.log("s-0123456789abcdef-a1"),
    ],
)
@pytest.mark.parametrize("connected", [True, False])
def test_one_that_hangs_is_an_outage(
    hanging: str, tmp_path: Path, call: Callable[[SweepJobs], object], connected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = SweepJobs(hanging, tmp_path)
    if connected:  # it hangs only afterwards
        with monkeypatch.context() as patch:
            patch.setattr(ray_client.BoundedClient, "_check_connection_and_version", lambda self, **_: None)
            assert jobs._client
    with pytest.raises(ClusterUnavailable, match="does not answer"):
        call(jobs)


@pytest.mark.timeout(60)
def test_one_that_hangs_gives_the_queue_back(hanging: str, tmp_path: Path) -> None:
    job = StoredJob("s-0123456789abcdef", 1, "mine", 1)
    store_job(tmp_path, job, "name: mine\n", False)
    with changing(tmp_path):
        join(tmp_path, job.submission_id)
    with pytest.raises(ClusterUnavailable):
        SweepJobs(hanging, tmp_path).start_waiting(1)
    with changing(tmp_path):
        assert waiting(tmp_path) == [job.submission_id]
