"""`dft-sweeps list`: the sweeps there are."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from dft_sweeps.cli.client import MOST_LISTED, Server, or_server_options
from dft_sweeps.cli.options import json_option, resolve_tracking_uri, storage_option, tracking_uri_option
from dft_sweeps.cli.printing import console, print_json


@click.command("list")
@storage_option
@tracking_uri_option
@or_server_options
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="List the newest so many.")
@click.option("--all", "everything", is_flag=True, help="List all.")
@json_option
def command(
    storage: Path,
    tracking_uri: str | None,
    server: str | None,
    token_file: Path | None,
    tls_certificate: Path | None,
    limit: int,
    everything: bool,
    as_json: bool,
) -> None:
    """List the sweeps, newest first: id, name, status, and how many of the trials are finished.

    A trial counts as finished wherever it was: a sweep that shares trials with an earlier one starts with
    those done. A service also knows the sweeps that have not begun.

    \b
    Example:
      dft-sweeps list
      dft-sweeps list --all --json | jq -r '.[] | select(.status == "FAILED") | .sweep_id'
    """
    from rich.table import Table

    from dft_sweeps.tracking.store import masked

    if server:
        asked = MOST_LISTED if everything else min(limit + 1, MOST_LISTED)  # one more shows that there are older ones
        sweeps = Server(server, token_file, tls_certificate, storage).sweeps(asked)
        older = not everything and len(sweeps) > limit
        sweeps = sweeps[:limit] if older else sweeps
    else:
        sweeps, older = _recorded(resolve_tracking_uri(storage, tracking_uri), None if everything else limit)
    if as_json:
        return print_json(sweeps)
    if not sweeps:
        return click.echo(f"no sweeps yet in {server or (masked(tracking_uri) if tracking_uri else storage)}")
    table = Table("sweep", "name", "status", "started", "trials finished")
    for sweep in sweeps:
        planned = sweep["trials"] + sweep.get("to_propose", 0)
        status, finished = sweep["status"].lower(), f"{sweep['finished']} of {planned}"
        table.add_row(sweep["sweep_id"], sweep["name"], status, _local(sweep["started"]), finished)
    console().print(table)
    if older:
        click.echo(f"The newest {limit}; --all lists the older ones too.")


def _recorded(uri: str, limit: int | None) -> tuple[list[dict[str, Any]], bool]:
    """The newest sweeps, all if `limit` is None, and whether there are older ones."""
    from dft_sweeps.tracking.reader import Reader
    from dft_sweeps.tracking.store import is_absent

    if is_absent(uri):
        return [], False
    rows, older = Reader(uri).newest_sweeps(limit) if limit else (Reader(uri).sweeps(), False)
    return [asdict(row) for row in rows], older


def _local(started: datetime | str | None) -> str:
    if started is None:
        return "-"
    moment = datetime.fromisoformat(started) if isinstance(started, str) else started
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"
