"""Passwords in tracking URIs and in the environment: sent to the server that asks for them, and shown nowhere."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking.background import Background
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.store import TrackingUnavailable, masked
from dft_sweeps.tracking.writer import MetricRow, Tracker

PASSWORD = "pa55-of-the-test"
EXPERIMENT = {"experiment_id": "1", "name": "e", "artifact_location": "/tmp", "lifecycle_stage": "active", "tags": []}


@pytest.fixture
def guarded() -> Iterator[str]:
    """The host and port of a server with basic-auth that answers what an empty MLflow would, until it is `gone`."""
    expected = "Basic " + base64.b64encode(f"bob:{PASSWORD}".encode()).decode()

    class Guarded(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            allowed = self.headers.get("Authorization") == expected
            self.send_response(200 if allowed else 401)
            self.end_headers()
            self.wfile.write(json.dumps({"experiments": []}).encode() if allowed else b"You are not authenticated.")

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_basic_auth_by_the_environment_or_the_uri(guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrackingUnavailable, match="401"):
        Reader(f"http://{guarded}")
    assert Reader(f"http://bob:{PASSWORD}@{guarded}").sweeps() == []
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert Reader(f"http://{guarded}").sweeps() == []
    assert Tracker(f"http://{guarded}", None).reconcile("s-1") == []
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "other")
    with pytest.raises(TrackingUnavailable) as caught:
        Reader(f"http://{guarded}")
    assert "other" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        f"http://bob:{PASSWORD}@127.0.0.1:9/",
        f"postgresql://bob:{PASSWORD}@127.0.0.1:9/db",
        f"postgresql://127.0.0.1:9/db?user=bob&password={PASSWORD}",
        f"nonsense://bob:{PASSWORD}@127.0.0.1:9/db",
        f"mysql+nodriver://bob:{PASSWORD}@127.0.0.1:9/db",
    ],
)
def test_what_cannot_be_reached_is_told_without_the_password(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TrackingUnavailable) as caught:
        Tracker(uri, None)
    assert PASSWORD not in str(caught.value) + "".join(capfd.readouterr())


@pytest.mark.parametrize("password", ["pa/55w0rd", "pa#55w0rd", "pa?55w0rd"])
def test_a_password_that_breaks_the_uri_is_not_told_either(password: str) -> None:
    with pytest.raises((SpecError, TrackingUnavailable)) as caught:
        Tracker(f"postgresql://bob:{password}@127.0.0.1:9/db", None)
    assert "55w0rd" not in str(caught.value)


def test_texts_with_uris_are_masked_and_other_texts_are_not() -> None:
    text = f"API request to http://bob:{PASSWORD}@host:5000/api failed; s3://bucket/a:b@c and 12:30@noon"
    assert masked(text) == "API request to http://bob:***@host:5000/api failed; s3://bucket/a:b@c and 12:30@noon"
    assert masked("sqlite:////storage/mlflow.db") == "sqlite:////storage/mlflow.db"


def test_nothing_of_a_sweep_holds_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend whose URI has one, all that is written of a sweep, and what waits for it on the storage."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    uri = f"sqlite:///{tmp_path}/mlflow.db?password={PASSWORD}"
    said: list[str] = []
    tracker = Tracker(uri, str(tmp_path / "artifacts"))
    writer = Background(tracker, tmp_path / "spool", said.append, patience_s=0.2)
    parent = writer.open_sweep("secret", "s-1", "name: secret\n", [{"training_id": "t", "name": "t", "axes": {}}], "m")
    writer.log(writer.open_trial(parent, "t", "t", {"p": "1"}, {}), [MetricRow("train/nll", 1, 0.5, 1)])
    writer.flush()

    def fails(*_: object) -> None:
        raise TrackingUnavailable(f"no answer from http://bob:{PASSWORD}@host/")

    monkeypatch.setattr(tracker, "finish", fails)
    writer.finish(parent, "FINISHED")
    with pytest.raises(TrackingUnavailable) as caught:
        writer.flush()
    assert PASSWORD not in str(caught.value) + "".join(said) + tracker.address
    for folder, _, files in os.walk(tmp_path):
        for name in files:
            assert PASSWORD.encode() not in (Path(folder) / name).read_bytes(), name
