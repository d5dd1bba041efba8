"""`dft-sweeps list`: the sweeps there are."""

from __future__ import annotations

from pathlib import Path

import click

from dft_sweeps.cli.options import json_option, resolve_tracking_uri, storage_option, tracking_uri_option
from dft_sweeps.cli.printing import console, print_json
from dft_sweeps.spec.errors import SpecError


@click.command("list")
@storage_option
@tracking_uri_option
@json_option
def command(storage: Path, tracking_uri: str | None, as_json: bool) -> None:
    """List the sweeps, newest first: id, name, status, and how many of the trials are finished.

    A trial counts as finished wherever it was: a sweep that shares trials with an earlier one starts with
    those done.

    \b
    Example:
      dft-sweeps list
      dft-sweeps list --json | jq -r '.[] | select(.status == "FAILED") | .sweep_id'
    """
    from rich.table import Table

    from dft_sweeps.tracking.reader import Reader
    from dft_sweeps.tracking.store import masked

    try:
        sweeps = Reader(resolve_tracking_uri(storage, tracking_uri)).sweeps()
    except SpecError:  # no database yet
        sweeps = []
    if as_json:
        return print_json(sweeps)
    if not sweeps:
        return click.echo(f"no sweeps yet in {masked(tracking_uri) if tracking_uri else storage}")
    table = Table("sweep", "name", "status", "started", "trials finished")
    for sweep in sweeps:
        started = f"{sweep.started.astimezone():%Y-%m-%d %H:%M}"
        table.add_row(sweep.sweep_id, sweep.name, sweep.status.lower(), started, f"{sweep.finished} of {sweep.trials}")
    console().print(table)
