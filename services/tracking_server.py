"""An MLflow server of our own: a child process on loopback that ends with its parent's block, and leaves nothing."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError

import psutil

from dft_sweeps.tracking.store import TrackingUnavailable

HOST = "127.0.0.1"
LOG = "mlflow-server.log"
"""What the server says, in the storage directory."""
START_S, STOP_S = 120.0, 5.0
_PR_SET_PDEATHSIG = 1
_BACKEND = "MLFLOW_BACKEND_STORE_URI"
"""The option of this name would show the backend's password to whoever lists processes."""
_QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


@contextmanager
def tracking_server(backend: str, storage: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The running server of a backend, once it answers; its artifacts are in the storage directory.

    Raises:
        TrackingUnavailable: it ends, or does not answer in time; says where its log is.
    """
    log = storage / LOG
    arguments = ["--artifacts-destination", str(storage / "artifacts")]
    arguments += ["--host", HOST, "--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *arguments],
            env=os.environ | _QUIET | {_BACKEND: backend},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for its parent, which ends it last
            preexec_fn=_die_with_parent,
        )
    try:
        _await(process, port, log)
        yield process
    finally:
        _end(process)


def _die_with_parent() -> None:
    """Has Linux end this process when the thread that started it has ended, however that ended."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise TrackingUnavailable(f"MLflow's server ended with code {process.returncode}; see {log}")
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5):
                return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise TrackingUnavailable(f"MLflow's server did not answer within {START_S:g} s; see {log}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the server and its children."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        _send(member, signal.SIGTERM)
    for member in psutil.wait_procs(family, timeout=STOP_S)[1]:
        _send(member, signal.SIGKILL)
    process.wait()


def _send(member: psutil.Process, number: int) -> None:
    with suppress(psutil.NoSuchProcess):  # it may have ended by itself meanwhile
        member.send_signal(number)
