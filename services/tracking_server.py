"""An MLflow server of our own: a child process on loopback that ends with its parent's block, and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.error import URLError

import psutil

from dft_sweeps.tracking.store import TrackingUnavailable
from services.children import die_with_parent

HOST = "127.0.0.1"
LOG = "mlflow-server.log"
"""What the server says, in the storage directory."""
START_S, STOP_S = 120.0, 5.0
STEADY_S, RESTARTS = 60.0, 3
"""A server that ended sooner than this ended at once; how often in a row such a one is started again."""
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
    with log.open("ab") as output:  # what one said that died is to be found
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *arguments],
            env=os.environ | _QUIET | {_BACKEND: backend},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for its parent, which ends it last
            preexec_fn=die_with_parent,
        )
    try:
        _await(process, port, log)
        yield process
    finally:
        _end(process)


@contextmanager
def kept_tracking_server(
    backend: str, storage: Path, port: int, say: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """As `tracking_server`, with a function that starts the server again if it has ended, to be called now and then.

    That function says so in a line each time, and raises TrackingUnavailable where the server ends again and again.
    """
    with ExitStack() as running:
        process = running.enter_context(tracking_server(backend, storage, port))
        began, at_once = time.monotonic(), 0

        def look() -> None:
            nonlocal process, began, at_once
            while process.poll() is not None:
                at_once = 0 if time.monotonic() - began > STEADY_S else at_once + 1
                if at_once > RESTARTS:
                    raise TrackingUnavailable(f"MLflow's server ends whenever it is started; see {storage / LOG}")
                say(f"MLflow's server ended by itself (code {process.returncode}); starting it again")
                running.close()
                with suppress(TrackingUnavailable):  # it ended: that counts, too
                    process = running.enter_context(tracking_server(backend, storage, port))
                began = time.monotonic()

        yield look


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
    """Ends the server and its children, which outlive it where it was killed. They are all of its session."""
    family = []
    for member in psutil.process_iter():
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(member.pid) == process.pid:
                family.append(member)
    for member in family:
        _send(member, signal.SIGTERM)
    for member in psutil.wait_procs(family, timeout=STOP_S)[1]:
        _send(member, signal.SIGKILL)
    process.wait()


def _send(member: psutil.Process, number: int) -> None:
    with suppress(psutil.NoSuchProcess):  # it may have ended by itself meanwhile
        member.send_signal(number)
