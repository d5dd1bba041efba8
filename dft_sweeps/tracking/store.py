"""The connection to MLflow: opened quietly, created on first use, and refused quickly where nothing answers.

A backend that does not answer raises `TrackingUnavailable`; nothing is cached or retried here beyond what
MLflow's own client does.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

P = ParamSpec("P")
T = TypeVar("T")

PROBE_SECONDS = 5
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_FIRST_CONTACT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class TrackingUnavailable(RuntimeError):
    """MLflow's server or database does not answer, or refuses this client."""


def connect(tracking_uri: str, create: bool) -> MlflowClient:
    """A client that has reached its backend once.

    Args:
        tracking_uri: what MLflow takes: ``sqlite:///...``, another database, or ``http(s)://...``.
        create: create a SQLite database that is not there yet (1-2 s, for MLflow's schema migrations).

    Raises:
        TrackingUnavailable: nothing answers, or it answers with a refusal. Comes within about 20 s; for the
            calls after this one MLflow's own limits hold, minutes of retries.
        FileNotFoundError: the SQLite database is absent and `create` is False.
    """
    # Usage reports to a third party are not this package's to send.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    file = sqlite_file(tracking_uri)
    if file and not create and not file.exists():
        raise FileNotFoundError(file)
    with _only_one(file), _impatient():
        _probe_database(tracking_uri)
        return _open(tracking_uri)


def _open(tracking_uri: str) -> MlflowClient:
    import sqlalchemy
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        client = MlflowClient(tracking_uri)
        client.search_experiments(max_results=1)
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise TrackingUnavailable(f"no MLflow tracking at {masked(tracking_uri)}: {error}") from error
    return client


def outage_as_error(method: Callable[P, T]) -> Callable[P, T]:
    """Decorator: MLflow's errors that mean "no answer" become `TrackingUnavailable`; others pass."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        from mlflow.exceptions import MlflowException

        try:
            return method(*args, **kwargs)
        except MlflowException as error:
            # MLflow gives a dead server no type of its own; its REST client starts every such message alike.
            if error.error_code == "TEMPORARILY_UNAVAILABLE" or str(error).startswith("API request to"):
                raise TrackingUnavailable(f"MLflow does not answer: {error}") from error
            raise

    return call


def masked(tracking_uri: str) -> str:
    """The URI as it may be printed: without its password."""
    password = urlsplit(tracking_uri).password
    return tracking_uri.replace(f":{password}@", ":***@") if password else tracking_uri


def sqlite_file(tracking_uri: str) -> Path | None:
    """The database file of a ``sqlite:///`` URI; None for any other backend."""
    prefix = "sqlite:///"
    return Path(tracking_uri.removeprefix(prefix)) if tracking_uri.startswith(prefix) else None


@contextlib.contextmanager
def _only_one(file: Path | None) -> Iterator[None]:
    """Holds a lock beside a SQLite database: of two processes that create one at once, one would fail."""
    if file is None:
        yield
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = open(f"{file}.lock", "w")  # noqa: SIM115 (closed below, with the lock)
    except OSError as error:
        raise TrackingUnavailable(f"cannot keep an MLflow database at {file}: {error}") from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Few HTTP retries, where the user has not set their number: by default MLflow tries for minutes."""
    ours = {name: value for name, value in _FIRST_CONTACT.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


def _probe_database(tracking_uri: str) -> None:
    """MLflow tries a database for 100 s, with a warning each time; whether its port is open shows at once."""
    url = urlsplit(tracking_uri)
    port = url.port or _DATABASE_PORTS.get(url.scheme.split("+")[0])
    if url.scheme.startswith("http") or not url.hostname or port is None:
        return
    try:
        socket.create_connection((url.hostname, port), timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise TrackingUnavailable(f"no database answers at {url.hostname}:{port}: {error}") from error
