"""`dft-sweeps status`: how far each trial of a sweep is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dft_sweeps.cli.client import Server, or_server_options
from dft_sweeps.cli.options import json_option, resolve_tracking_uri, storage_option, tracking_uri_option
from dft_sweeps.cli.printing import console, print_json

if TYPE_CHECKING:
    from dft_sweeps.tracking.reader import TrialRow


@click.command()
@click.argument("sweep", metavar="ID")
@storage_option
@tracking_uri_option
@or_server_options
@json_option
def command(
    sweep: str,
    storage: Path,
    tracking_uri: str | None,
    server: str | None,
    token_file: Path | None,
    tls_certificate: Path | None,
    as_json: bool,
) -> None:
    """Show how far each trial of a sweep is: status, last step trained, last accuracy measured.

    ID is a sweep's id, the beginning of one, or the name of a sweep (its newest run).

    \b
    Example:
      dft-sweeps status quickstart
      dft-sweeps status s-3f9a --json | jq '.trials[] | {name, status, step}'
    """
    from rich.table import Table

    if server:
        answer = Server(server, token_file, tls_certificate, storage).status(sweep)
    else:
        answer = _recorded(resolve_tracking_uri(storage, tracking_uri), sweep)
    if as_json:
        return print_json(answer)
    found, trials = answer["sweep"], answer["trials"]
    left = found.get("to_propose", 0)
    also = f" (tpe: {left} to be proposed)" if left else ""
    done = f"{found['finished']} of {found['trials'] + left} trials finished{also}"
    title = f"{found['name']} {found['sweep_id']}: {found['status'].lower()}, {done}"
    table = Table(title=title, title_justify="left")
    table.add_column("trial")
    table.add_column("status")
    table.add_column("step", justify="right")
    table.add_column("accuracy (%)", justify="right")
    for trial in trials:
        table.add_row(trial["name"], _status(trial), _step(trial), _accuracy(trial))
    console().print(table)


def _recorded(uri: str, sweep: str) -> dict[str, Any]:
    from dft_sweeps.tracking.reader import Reader

    reader = Reader(uri)
    found = reader.find_sweep(sweep)
    trials = [progress_of(trial) for trial in reader.trials(found)]
    finished = sum(trial["status"] == "FINISHED" for trial in trials)
    return {"sweep": asdict(found) | {"finished": finished}, "trials": trials}


def progress_of(trial: TrialRow) -> dict[str, Any]:
    from dft_sweeps.tracking import names

    trained = _last(trial, names.train_metric("nll"))
    headline = names.eval_metric("eval", names.AVERAGE, "accuracy")
    if headline not in trial.metrics:  # one benchmark has no average
        headline = next((key for key in trial.metrics if key.startswith("eval/") and key.endswith("/accuracy")), "")
    evaluated = _last(trial, headline)
    steps = trial.params.get("resolved.steps")
    return {
        "name": trial.name,
        "training_id": trial.training_id,
        "run_id": trial.run_id,
        "axes": trial.axes,
        "status": trial.status,
        "step": trained[0] if trained else None,
        "steps": int(steps) if steps else None,
        "resumed_at": trial.resumed_at,
        "stopped_at": trial.stopped_at,
        "mixed_provenance": trial.mixed_provenance,
        "evaluated_step": evaluated[0] if evaluated else None,
        "metrics": trial.metrics,
        "accuracy": evaluated[1] if evaluated else None,
    }


def _last(trial: TrialRow, key: str) -> tuple[int, float] | None:
    return (trial.steps[key], trial.metrics[key]) if key in trial.metrics else None


def _status(trial: dict[str, Any]) -> str:
    return "stopped" if trial.get("stopped_at") is not None else str(trial["status"].lower())


def _step(trial: dict[str, Any]) -> str:
    if trial["step"] is None:
        return "-"
    shown = f"{trial['step']} of {trial['steps']}" if trial["steps"] else str(trial["step"])
    return f"{shown} (resumed at {trial['resumed_at']})" if trial["resumed_at"] else shown


def _accuracy(trial: dict[str, Any]) -> str:
    if trial["accuracy"] is None:
        return "-"
    return f"{100 * trial['accuracy']:.1f} at step {trial['evaluated_step']}"
