"""`dft-sweeps logs`: what a submitted sweep prints."""

from __future__ import annotations

from pathlib import Path

import click

from dft_sweeps.cli.client import server_options


@click.command()
@click.argument("sweep", metavar="ID")
@server_options
@click.option("--follow", "-f", is_flag=True, help="Go on until the sweep has ended.")
def command(
    sweep: str, server: str, token_file: Path | None, tls_certificate: Path | None, storage: Path, follow: bool
) -> int:
    """Print what a submitted sweep's newest job has printed.

    ID is a sweep's id, the beginning of one, or the name of a sweep. With --follow the exit code is that of
    the sweep: 0 done, 1 a trial failed or it was cancelled.

    \b
    Example:
      dft-sweeps logs quickstart --follow
    """
    from dft_sweeps.cli.client import Server
    from dft_sweeps.cli.submit import follow_sweep

    api = Server(server, token_file, tls_certificate, storage)
    if follow:
        return follow_sweep(api, sweep)
    for line in api.log(sweep):
        click.echo(line)
    return 0
