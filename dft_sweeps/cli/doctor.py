"""`dft-sweeps doctor`: checks a machine, or a cluster, from Python to a vLLM engine, and says how to mend it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dft_sweeps.cli.options import json_option, resolve_tracking_uri, storage_option, tracking_uri_option
from dft_sweeps.cli.printing import print_json

if TYPE_CHECKING:
    from dft_sweeps.cli.checks.finding import Check, Context, Finding, Status

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "yellow"}


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    name: str
    status: Status
    found: str
    advice: str
    seconds: float


@click.command()
@storage_option
@tracking_uri_option
@click.option("--address", help="Ray cluster to check, e.g. auto. [default: one started here for the check]")
@json_option
def command(storage: Path, tracking_uri: str | None, address: str | None, as_json: bool) -> int:
    """Check all that a sweep needs, one line each, and say how to mend what is not ok.

    Starts Ray and a vLLM engine for it, which takes most of its half a minute, and leaves nothing behind. A check that
    could find nothing because an earlier one failed is skipped, and says so.

    \b
    Exit codes: 0 nothing failed (there may be warnings); 1 a check failed.

    \b
    Example:
      dft-sweeps doctor
      dft-sweeps doctor --storage /mnt/sweeps --address auto
    """
    from dft_sweeps.cli.checks.finding import Context
    from dft_sweeps.orchestration.cluster import set_environment
    from dft_sweeps.training.model_files import EMBEDDED

    set_environment(address)
    storage = storage.expanduser().resolve()
    context = Context(storage, resolve_tracking_uri(storage, tracking_uri), address, EMBEDDED)
    started = time.monotonic()
    rows = []
    with context.resources:
        for row in examine(context, checks()):
            rows.append(row)
            if not as_json:
                _print(row)
    if as_json:
        print_json(rows)
    else:
        click.echo(_summary(rows, time.monotonic() - started))
    return int(any(row.status == "failed" for row in rows))


def checks() -> Sequence[Check]:
    """All checks, in their order: cheap ones first, and none before what it needs."""
    from dft_sweeps.cli.checks import cluster, engine, machine, packages, ray_settings, storage, tracking
    from dft_sweeps.cli.checks.finding import Check

    return (
        Check("python", "looking at Python", packages.python),
        Check("packages", "looking at the installed packages", packages.packages),
        Check("vllm", "looking for vLLM", packages.vllm),
        Check("imports", "importing torch, transformers, MLflow and vLLM", packages.imports),
        Check("cores", "counting cores", machine.cores),
        Check("memory", "measuring memory", machine.memory),
        Check("shared memory", "measuring shared memory", machine.shared_memory),
        Check("storage", "writing, renaming and locking in the storage directory", storage.storage),
        Check("disk", "measuring disks", machine.disk),
        Check("mlflow", "writing to MLflow", tracking.tracking),
        Check("mlflow ui", "trying MLflow's port", machine.port),
        Check("ray settings", "looking at Ray's settings", ray_settings.settings),
        Check("ray", "starting Ray, or connecting to it", cluster.connection, ("ray settings",)),
        Check("ray nodes", "comparing the versions of the nodes", cluster.nodes, ("ray",)),
        Check("ray dashboard", "asking Ray's dashboard", cluster.dashboard, ("ray",)),
        Check("ray room", "placing a trial and an engine", cluster.room, ("ray",)),
        Check("engine", "starting a vLLM engine", engine.engine, ("vllm", "imports", "ray nodes", "ray room")),
    )


def examine(context: Context, wanted: Sequence[Check]) -> Iterator[Row]:
    """Runs the checks in order. A check whose need failed, or was skipped, is skipped."""
    from rich.console import Console

    unmet: dict[str, Status] = {}
    for check in wanted:
        started = time.monotonic()
        with Console(stderr=True).status(f"{check.doing} ..."):
            finding = _look(check, context, unmet)
        if finding.status in ("failed", "skipped"):
            unmet[check.name] = finding.status
        yield Row(check.name, finding.status, finding.found, finding.advice, time.monotonic() - started)


def _look(check: Check, context: Context, unmet: dict[str, Status]) -> Finding:
    from dft_sweeps.cli.checks.finding import Finding

    missing = [name for name in check.needs if name in unmet]
    if missing:
        return Finding("skipped", "needs " + ", ".join(f"{name} ({unmet[name]})" for name in missing))
    return check.look(context)


def _print(row: Row) -> None:
    status = click.style(f"{row.status:<8}", fg=_COLOURS[row.status], bold=row.status != "ok")
    click.echo(f"{status} {row.name:<14} {row.found}")
    for line in row.advice.splitlines():
        click.echo(f"{'':<23} -> {line}")


def _summary(rows: Sequence[Row], seconds: float) -> str:
    counts = {status: sum(row.status == status for row in rows) for status in _COLOURS}
    said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"\n{said}, in {seconds:.0f} s"
