"""`dft-sweeps cancel`: ends a submitted sweep."""

from __future__ import annotations

from pathlib import Path

import click

from dft_sweeps.cli.client import server_options
from dft_sweeps.cli.options import json_option
from dft_sweeps.cli.printing import print_json


@click.command()
@click.argument("sweep", metavar="ID")
@server_options
@json_option
def command(
    sweep: str, server: str, token_file: Path | None, tls_certificate: Path | None, storage: Path, as_json: bool
) -> None:
    """End a submitted sweep's job, and wait until nothing of it is left.

    ID is a sweep's id, the beginning of one, or the name of a sweep. Checkpoints and measurements stay:
    submitting the spec again takes the sweep up where it was. Safe to repeat.

    \b
    Example:
      dft-sweeps cancel quickstart
    """
    from dft_sweeps.cli.client import Server

    cancelled = Server(server, token_file, tls_certificate, storage).cancel(sweep)
    if as_json:
        return print_json(cancelled)
    if cancelled["submission_id"] is None:
        return click.echo(f"{cancelled['sweep_id']} was not submitted to this cluster")
    words = "cancelled" if cancelled["cancelled"] else "had ended already"
    click.echo(f"{cancelled['submission_id']} {words}: {cancelled['status'].lower()}")
