"""`dft-sweeps submit`: hands a sweep to a cluster that `dft-sweeps serve` serves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dft_sweeps.cli.client import server_options
from dft_sweeps.cli.options import json_option, set_option, spec_argument
from dft_sweeps.cli.printing import print_json

if TYPE_CHECKING:
    from dft_sweeps.cli.client import Server


@click.command()
@spec_argument
@set_option
@server_options
@click.option("--follow", is_flag=True, help="Print its progress until it has ended.")
@json_option
def command(
    spec: Path,
    overrides: tuple[str, ...],
    server: str,
    token_file: Path | None,
    tls_certificate: Path | None,
    storage: Path,
    follow: bool,
    as_json: bool,
) -> int:
    """Submit a sweep to a cluster, and return at once; the sweep goes on without this machine.

    What the spec extends and --set changes is put together here, and the result is sent. Paths in it are those
    of the cluster: files must lie there, below a directory that the server allows. Submitting a sweep that
    runs already finds the running one; one that ended with something missing is taken up.

    \b
    Example:
      dft-sweeps submit sweep_specs/quickstart.yaml --follow
      dft-sweeps submit my.yaml --server https://head:8700 --token-file token --set trial.train.steps=20
    """
    from dft_sweeps.cli.client import Server
    from dft_sweeps.spec.load import load_sweep

    text = load_sweep(spec, overrides).resolved_yaml()
    api = Server(server, token_file, tls_certificate, storage)
    submission = api.submit(text)
    if as_json:
        print_json(submission)
    else:
        say_submitted(submission, follow)
    return follow_sweep(api, submission["sweep_id"], quiet=as_json) if follow else 0


def say_submitted(submission: dict[str, Any], followed: bool) -> None:
    sweep_id = submission["sweep_id"]
    if submission["created"]:
        click.echo(f"submitted {sweep_id} as {submission['submission_id']}")
    else:
        ended = submission["status"] in ("SUCCEEDED", "FAILED", "STOPPED")
        how = "nothing is left to do; its job" if ended else "it runs already; its job"
        click.echo(f"{sweep_id}: {how} is {submission['submission_id']}")
    if not followed:
        click.echo(f"follow it with: dft-sweeps logs {sweep_id} --follow")


def follow_sweep(api: Server, sweep_id: str, quiet: bool = False) -> int:
    """Prints a sweep's lines until its newest job has ended; returns the exit code that `dft-sweeps run` had."""
    for kind, data in api.events(sweep_id):
        if kind == "log":
            click.echo(data["line"], err=quiet)
        elif kind == "job" and data["status"] == "PENDING":
            click.echo("waiting for its turn", err=True)
        elif kind == "unreachable":
            click.echo(f"waiting: {data['error']}", err=True)
        elif kind == "end":
            click.echo(f"{data['submission_id']}: {data['status'].lower()}", err=True)
            return exit_code(data["status"], data["exit_code"])
    raise AssertionError("a stream of events ends with `end`")


def exit_code(status: str, code: int | None) -> int:
    """0 for a job that succeeded, the job's own code where it has one, 1 where it was stopped or killed."""
    if status == "SUCCEEDED":
        return 0
    return code if code in (1, 2, 3) else 1
