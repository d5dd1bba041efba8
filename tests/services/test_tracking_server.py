"""The MLflow server that `serve` keeps: started again where it ended, and given up where it ends again and again."""

from __future__ import annotations

import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from dft_sweeps.orchestration.cluster import free_port
from dft_sweeps.tracking.store import TrackingUnavailable
from services import tracking_server as module
from tests.end_to_end.running import title


def test_a_server_that_was_killed_is_started_again(tmp_path: Path) -> None:
    """Its worker, which outlives it, included: it holds the port."""
    port, said = free_port(), list[str]()
    with module.kept_tracking_server(f"sqlite:///{tmp_path}/mlflow.db", tmp_path, port, said.append) as look:
        look()
        assert said == []
        os.kill(_server(port), signal.SIGKILL)
        while not said:
            look()
        assert said == ["MLflow's server ended by itself (code -9); starting it again"]
        with urllib.request.urlopen(f"http://{module.HOST}:{port}/health", timeout=30) as answer:
            assert answer.status == 200
        again = _server(port)
    assert not Path(f"/proc/{again}").exists()


def _server(port: int) -> int:
    """The process that this one started."""
    (found,) = [child for child in psutil.Process().children() if str(port) in title(child)]
    return found.pid


def test_a_server_that_ends_at_once_again_and_again_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    @contextmanager
    def ends_at_once(*_: object) -> Iterator[subprocess.Popen[bytes]]:
        started.append(subprocess.Popen(["false"]))
        if len(started) == 3:
            raise TrackingUnavailable("it did not even answer")
        started[-1].wait()
        yield started[-1]

    monkeypatch.setattr(module, "tracking_server", ends_at_once)
    said: list[str] = []
    with (
        pytest.raises(TrackingUnavailable, match=f"ends whenever it is started; see {tmp_path}"),
        module.kept_tracking_server("sqlite:///x", tmp_path, 1, said.append) as look,
    ):
        look()
    assert len(said) == module.RESTARTS and len(started) == module.RESTARTS + 1
