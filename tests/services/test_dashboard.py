"""A dashboard of Ray that does not answer as it should: to the service, that is an outage."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from dft_sweeps.orchestration.cluster import ClusterUnavailable
from services.jobs import SweepJobs


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
