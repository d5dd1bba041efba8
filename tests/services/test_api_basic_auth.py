"""The service with an MLflow that asks for a name and a password."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest

from dft_sweeps.cli.client import Server
from dft_sweeps.orchestration.cluster import ClusterUnavailable, free_port
from dft_sweeps.tracking.reader import Reader
from tests.end_to_end.running import SPEC
from tests.services.served import serve

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(1500)]
USER, PASSWORD = "admin", "a-p@ss:word/of the-test"
TEXT = SPEC.read_text()


@pytest.fixture
def asking_server(tmp_path: Path) -> Iterator[str]:
    if importlib.util.find_spec("flask_wtf") is None:
        pytest.skip("MLflow's basic-auth needs flask-wtf: pip install 'mlflow[auth]'")
    directory, port = tmp_path / "mlflow", free_port()
    directory.mkdir()
    (directory / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{directory}/auth.db\nadmin_username = {USER}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    secrets = {"MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD, "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-the-test"}
    settings = {"MLFLOW_AUTH_CONFIG_PATH": str(directory / "auth.ini"), "MLFLOW_DISABLE_TELEMETRY": "true"}
    where = ["--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", f"sqlite:///{directory}/mlflow.db"]
    artifacts = ["--artifacts-destination", str(directory / "artifacts"), "--workers", "1"]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", *where, *artifacts],
            env=os.environ | secrets | settings, cwd=directory, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        _await(process, f"http://127.0.0.1:{port}/health", directory / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 240
    while True:
        try:
            with contextlib.suppress(HTTPError), urllib.request.urlopen(url, timeout=5):
                pass
            return
        except (URLError, TimeoutError, ConnectionError):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)


def test_a_sweep_is_recorded_with_the_password_that_serve_was_given(
    asking_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = tmp_path / "storage"
    service = serve(storage, "--tracking-uri", asking_server)
    with pytest.raises(ClusterUnavailable, match=r"401|not authenticated"):
        submitted(service.client())
    assert service.end() == 0

    password = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    service = serve(storage, "--tracking-uri", asking_server, environment=password)
    sweep_id = submitted(service.client())
    log = service.call("logs", sweep_id, "--follow")
    assert log.returncode == 0 and "2 trials finished" in log.stdout, log.stdout
    for name, value in password.items():
        monkeypatch.setenv(name, value)
    assert Reader(asking_server).find_sweep(sweep_id).status == "FINISHED"
    assert service.client().status(sweep_id)["sweep"]["finished"] == 2
    assert service.end() == 0
    files = [path for path in storage.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert [path.name for path in files] == ["tracking.json"]
    assert PASSWORD not in "\n".join([*service.lines, log.stdout])


def submitted(client: Server) -> str:
    return str(client.submit(TEXT)["sweep_id"])
