"""`dft-sweeps ui`: MLflow's own pages on this machine, until Ctrl-C. No process is left behind."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from dft_sweeps.cli.options import (
    resolve_tracking_uri,
    storage_option,
    tracking_uri_option,
    writable_storage,
)
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking import names, shared_view
from dft_sweeps.tracking.store import masked

if TYPE_CHECKING:
    from dft_sweeps.tracking.reader import Reader, SweepRow

HOST = "127.0.0.1"


@click.command()
@click.argument("sweep", metavar="[ID]", required=False)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port on 127.0.0.1.")
@click.option("--open", "open_browser", is_flag=True, help="Open the page in the browser.")
@storage_option
@tracking_uri_option
def command(sweep: str | None, port: int, open_browser: bool, storage: Path, tracking_uri: str | None) -> None:
    """Show the sweeps in MLflow's pages; Ctrl-C ends it.

    Prints the address of the sweep ID (an id, the beginning of one, or a name), by default of the newest: a page of
    its accuracies by optimizer step, and at the last step by the axes of numbers, which is kept in MLflow as a view.
    Where --tracking-uri names an MLflow server, that server has the pages, and nothing is started here.

    \b
    Example:
      dft-sweeps ui quickstart --port 5001 --open
    """
    from dft_sweeps.tracking.reader import Reader
    from dft_sweeps.tracking.store import TrackingUnavailable
    from services.tracking_server import LOG

    uri = resolve_tracking_uri(storage, tracking_uri)
    local = not uri.startswith(("http://", "https://"))
    if local:
        _check_port(port)
    reader = Reader(uri)
    found = reader.find_sweep(sweep) if sweep else next(iter(reader.sweeps()), None)
    page = _charts(uri, reader, found) if found else "/"
    address = (f"http://{HOST}:{port}" if local else uri.rstrip("/")) + page
    if local:
        with _server(uri, writable_storage(storage), port) as process:
            _show(address, open_browser)
            click.echo("Ctrl-C ends it.")
            if process.wait() != 0:
                raise TrackingUnavailable(f"MLflow's server ended by itself; see {storage / LOG}")
    else:
        _show(address, open_browser)


def _charts(uri: str, reader: Reader, sweep: SweepRow) -> str:
    """MLflow's charts of the sweep's trials, the best first, those that another sweep ran included.

    Sorted by time, as they are by default, MLflow folds runs into their sweep's, which has no metrics to draw. Runs of
    several experiments have MLflow's own choice of charts; for one experiment's, that is what is left where MLflow does
    not take the sweep's view.
    """
    trials = reader.trials(sweep)
    finished = {trial.training_id: trial.run_id for trial in trials if trial.run_id and trial.status == "FINISHED"}
    reused = reader.finished_elsewhere(finished, sweep.measures, sweep.run_id)
    condition = f"tags.`{names.PARENT_TAG}` = '{sweep.run_id}'"
    if reused:
        listed = ", ".join(f"'{trial.run_id}'" for trial in trials if trial.run_id)
        condition = f"attributes.run_id IN ({listed})"
    best = quote(f"metrics.`{shared_view.HEADLINE}`", safe="")
    shown = f"compareRunsMode=CHART&orderByKey={best}&orderByAsc=false&searchFilter={quote(condition, safe='')}"
    experiments = sorted({sweep.experiment_id, *(each.experiment_id for each in reused)})
    if len(experiments) > 1:
        return f"/#/compare-experiments/s?experiments={quote(json.dumps(experiments), safe='')}&{shown}"
    state = shared_view.view_state(condition, trials)
    if reason := shared_view.keep_view(uri, sweep.experiment_id, sweep.sweep_id, state):
        click.echo(f"MLflow does not take the sweep's own choice of charts: {masked(reason)}", err=True)
    else:
        shown = f"compareRunsMode=CHART&viewStateShareKey={sweep.sweep_id}"
    return f"/#/experiments/{sweep.experiment_id}/runs?{shown}"


def _show(address: str, open_browser: bool) -> None:
    click.echo(masked(address))
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
    """The running server, which ends with the block, by SIGTERM and SIGHUP as by Ctrl-C."""
    from services.tracking_server import tracking_server

    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with tracking_server(uri, storage, port) as process:
            yield process
    except KeyboardInterrupt:
        click.echo("ended", err=True)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
