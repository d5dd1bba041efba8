"""MLflow: whether it answers and keeps what is written to it."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from dft_sweeps.cli.checks.finding import Context, Finding, failed, in_short, ok
from dft_sweeps.cli.checks.storage import nearest_existing
from dft_sweeps.tracking.store import TrackingUnavailable, connect, masked, sqlite_file

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

EXPERIMENT = "dft-sweeps-doctor"
"""Written to and deleted again. A database forgets it; a server keeps it among its deleted experiments."""
_VALUE = 0.5


def tracking(context: Context) -> Finding:
    """Writes a run with a metric, reads it back and deletes it."""
    uri = context.tracking_uri
    file = sqlite_file(uri)
    if file is None or file.exists():
        return _try(uri, uri, f"{masked(uri)} answers and keeps what is written")
    place = nearest_existing(file.parent)
    found = f"no database yet at {file}; one made beside it for trial kept what was written, and was deleted"
    try:
        with tempfile.TemporaryDirectory(prefix=".dft-sweeps-doctor-", dir=place) as scratch:
            return _try(f"sqlite:///{Path(scratch) / file.name}", uri, found)
    except OSError as error:
        return failed(f"no database can be made at {file}: {error.strerror}", _advice(uri, ""))


def _try(uri: str, shown: str, found: str) -> Finding:
    from mlflow.exceptions import MlflowException

    try:
        client = connect(uri, create=True)
        points = _write_and_delete(client)
    except (TrackingUnavailable, MlflowException) as error:
        return failed(in_short(masked(str(error))), _advice(shown, str(error)))
    if [(point.step, point.value) for point in points] != [(1, _VALUE)]:
        return failed(f"{masked(shown)} took a metric and gave back {points}", _advice(shown, ""))
    return ok(found)


def _write_and_delete(client: MlflowClient) -> list[Metric]:
    """The points of the metric that was written, as MLflow gave them back."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        experiment_id = client.create_experiment(EXPERIMENT)
    else:
        experiment_id = experiment.experiment_id
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment_id)
    with contextlib.ExitStack() as stack:
        stack.callback(_delete_experiment, client, experiment_id)
        run_id = client.create_run(experiment_id, run_name="doctor").info.run_id
        stack.callback(_delete_run, client, run_id)
        client.log_metric(run_id, "doctor/written", _VALUE, step=1)
        return list(client.get_metric_history(run_id, "doctor/written"))


def _delete_run(client: MlflowClient, run_id: str) -> None:
    client.delete_run(run_id)
    forget = getattr(client._tracking_client.store, "_hard_delete_run", None)  # what `mlflow gc` calls
    if forget:
        forget(run_id)


def _delete_experiment(client: MlflowClient, experiment_id: str) -> None:
    client.delete_experiment(experiment_id)
    forget = getattr(client._tracking_client.store, "_hard_delete_experiment", None)
    if forget:
        forget(experiment_id)


def _advice(uri: str, message: str) -> str:
    if "database schema" in message:
        return f"mlflow db upgrade {masked(uri)}   # made by another MLflow; copy the database first"
    if uri.startswith(("http:", "https:")):
        address = masked(uri).rstrip("/")
        return f"curl {address}/health   # does it answer? without --tracking-uri, a local database is used"
    file = sqlite_file(uri)
    if file and file.exists():
        return f"mv {file} {file}.broken   # a new database is made; or mend the file or its permissions"
    if file:
        return f"mkdir -p {file.parent}   # or --tracking-uri sqlite:////a/writable/place/mlflow.db"
    return "--tracking-uri http://HOST:PORT of a running MLflow server, or none to use a SQLite database in --storage"
