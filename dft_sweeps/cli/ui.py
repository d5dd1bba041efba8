"""`dft-sweeps ui`: MLflow's own pages on this machine, until Ctrl-C. No process is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from urllib.error import URLError

import click

from dft_sweeps.cli.options import (
    resolve_tracking_uri,
    storage_option,
    tracking_uri_option,
    writable_storage,
)
from dft_sweeps.spec.errors import SpecError

HOST = "127.0.0.1"
LOG = "mlflow-server.log"
"""What the server says, in the storage directory."""
START_SECONDS = 120
STOP_SECONDS = 5


@click.command()
@click.argument("sweep", metavar="[ID]", required=False)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port on 127.0.0.1.")
@click.option("--open", "open_browser", is_flag=True, help="Open the page in the browser.")
@storage_option
@tracking_uri_option
def command(sweep: str | None, port: int, open_browser: bool, storage: Path, tracking_uri: str | None) -> None:
    """Show the sweeps in MLflow's pages; Ctrl-C ends it.

    Prints the address of the sweep ID (an id, the beginning of one, or a name), by default of the newest.
    Where --tracking-uri names an MLflow server, that server has the pages, and nothing is started here.

    \b
    Example:
      dft-sweeps ui quickstart --port 5001 --open
    """
    from dft_sweeps.tracking.reader import Reader
    from dft_sweeps.tracking.store import TrackingUnavailable

    uri = resolve_tracking_uri(storage, tracking_uri)
    local = not uri.startswith(("http://", "https://"))
    if local:
        _check_port(port)
    reader = Reader(uri)
    found = reader.find_sweep(sweep) if sweep else next(iter(reader.sweeps()), None)
    page = f"/#/experiments/{found.experiment_id}/runs?compareRunsMode=CHART" if found else "/"
    address = (f"http://{HOST}:{port}" if local else uri.rstrip("/")) + page
    if local:
        with _server(uri, writable_storage(storage), port) as process:
            _show(address, open_browser)
            click.echo("Ctrl-C ends it.")
            if process.wait() != 0:
                raise TrackingUnavailable(f"MLflow's server ended by itself; see {storage / LOG}")
    else:
        _show(address, open_browser)


def _show(address: str, open_browser: bool) -> None:
    click.echo(address)
    if open_browser:
        click.launch(address)


def port_error(port: int) -> str | None:
    """Why no server can listen at a port of this machine; None where one can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            return error.strerror
    return None


def _check_port(port: int) -> None:
    from dft_sweeps.orchestration.cluster import free_port

    if reason := port_error(port):
        raise SpecError(f"port {port} cannot be used ({reason}); port {free_port()} is free", "--port")


@contextmanager
def _server(uri: str, storage: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The running server. Leaving the block ends it and its children, also by Ctrl-C, SIGTERM or SIGHUP."""
    log = storage / LOG
    arguments = ["--backend-store-uri", uri, "--artifacts-destination", str(storage / "artifacts")]
    arguments += [
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
        "--uvicorn-opts",
        "--log-level warning",
    ]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *arguments],
            env=os.environ | quiet,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _await(process, port, log)
        yield process
    except KeyboardInterrupt:
        click.echo("ended", err=True)
    finally:
        _end(process)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    from dft_sweeps.tracking.store import TrackingUnavailable

    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise TrackingUnavailable(f"MLflow's server ended with code {process.returncode}; see {log}")
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5):
                return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise TrackingUnavailable(f"MLflow's server did not answer within {START_SECONDS} s; see {log}")


def _end(process: subprocess.Popen[bytes]) -> None:
    import psutil

    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        _send(member, signal.SIGTERM)
    for member in psutil.wait_procs(family, timeout=STOP_SECONDS)[1]:
        _send(member, signal.SIGKILL)
    process.wait()


def _send(member: object, number: int) -> None:
    import psutil

    assert isinstance(member, psutil.Process)
    with suppress(psutil.NoSuchProcess):  # it may have ended by itself meanwhile
        member.send_signal(number)
