"""The connection to MLflow: opened quietly, created on first use, and refused quickly where nothing answers.

A backend that does not answer raises `TrackingUnavailable`; nothing is cached or retried here beyond what
MLflow's own client does. No message holds a password.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from urllib.parse import urlsplit

from dft_sweeps.spec.errors import SpecError

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

P = ParamSpec("P")
T = TypeVar("T")

PROBE_SECONDS = 5
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_patience = threading.Lock()
_blocks: dict[object, dict[str, str]] = {}
"""What the blocks of `patience` set that are under way, in their order."""
_users: dict[str, str | None] = {}
"""What the environment held before them."""
_RETRIES, _TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
_PASSWORDS = (
    (re.compile(r"(://[^/\s:@]*):[^/\s]*@"), r"\1:***@"),
    (re.compile(r"((?:password|passwd|pwd|token|secret)=)[^&\s'\"]+", re.IGNORECASE), r"\1***"),
)


class TrackingUnavailable(RuntimeError):
    """MLflow's server, database or artifact store does not answer, or refuses this client."""


def connect(tracking_uri: str, create: bool) -> MlflowClient:
    """A client that has reached its backend once.

    Args:
        tracking_uri: what MLflow takes: ``sqlite:///...``, another database, or ``http(s)://...``.
        create: create a SQLite database that is not there yet (1-2 s, for MLflow's schema migrations).

    Raises:
        TrackingUnavailable: nothing answers, or it answers with a refusal. Comes within about 20 s; for the
            calls after this one the limits of `outage_as_error` hold.
        FileNotFoundError: the SQLite database is absent and `create` is False.
        SpecError: `tracking_uri` cannot be read.
    """
    # Usage reports to a third party are not this package's to send.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # At the end of every run it would print the server's address, password included.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    file = sqlite_file(tracking_uri)
    if not create and is_absent(tracking_uri):
        raise FileNotFoundError(file)
    with _only_one(file), patience(retries=1, timeout_s=10):
        _probe_database(tracking_uri)
        return _open(tracking_uri)


def _open(tracking_uri: str) -> MlflowClient:
    import sqlalchemy
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It logs the traceback of every failed statement, and raises it, too.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    try:
        client = MlflowClient(tracking_uri)
        client.search_experiments(max_results=1)
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise TrackingUnavailable(masked(f"no MLflow tracking at {tracking_uri}: {error}")) from error
    return client


def outage_as_error(method: Callable[P, T]) -> Callable[P, T]:
    """Decorator: errors that mean "no answer" become `TrackingUnavailable`; others pass. A server is asked up to three
    times, and each time given 30 s."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException

        try:
            with patience(retries=2, timeout_s=30):
                return method(*args, **kwargs)
        except (MlflowException, RequestException) as error:
            if isinstance(error, RequestException) or _is_outage(error):
                raise TrackingUnavailable(masked(f"MLflow does not answer: {error}")) from error
            raise

    return call


@contextlib.contextmanager
def artifact_store() -> Iterator[None]:
    """For the block, which does nothing but write artifacts, what a store's own client raises is an outage.

    MLflow lets pass whatever that client raises, and boto3's errors have no type in common with anyone else's. Hence
    any error is caught here: most mean that the store is away for a moment, and one that does not go away is told when
    waiting for it ends. MLflow's own, the file system's and refusals of what was given keep their types.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError, ValueError):
        raise
    except Exception as error:
        raise TrackingUnavailable(masked(f"the artifact store does not answer: {error}")) from error


def read_artifact(client: MlflowClient, run_id: str, path: str) -> str:
    """The text of an artifact that every run of its kind has, so that one which cannot be had is taken for an outage:
    MLflow tells none from the other.

    Raises:
        TrackingUnavailable: it cannot be had.
    """
    from mlflow.exceptions import MlflowException

    try:
        with artifact_store(), tempfile.TemporaryDirectory() as folder:
            return Path(client.download_artifacts(run_id, path, folder)).read_text(encoding="utf-8")
    except (MlflowException, OSError) as error:
        raise TrackingUnavailable(masked(f"artifact {path} of run {run_id} cannot be read: {error}")) from error


def _is_outage(error: MlflowException) -> bool:
    """MLflow gives a dead server no type of its own; its REST client starts every such message alike. A database that
    goes away while it is asked is one of several errors of SQLAlchemy, which MLflow wraps."""
    import sqlalchemy

    cause = error.__cause__
    lost = isinstance(cause, sqlalchemy.exc.DBAPIError) and cause.connection_invalidated
    return lost or error.error_code == "TEMPORARILY_UNAVAILABLE" or str(error).startswith("API request to")


def masked(text: str) -> str:
    """A URI, or a text with some in it, as it may be printed: without passwords."""
    for pattern, shown in _PASSWORDS:
        text = pattern.sub(shown, text)
    return text


def sqlite_file(tracking_uri: str) -> Path | None:
    """The database file of a ``sqlite:///`` URI; None for any other backend."""
    prefix = "sqlite:///"
    return Path(tracking_uri.removeprefix(prefix)) if tracking_uri.startswith(prefix) else None


def is_absent(tracking_uri: str) -> bool:
    """Whether this is a SQLite database that is not there yet."""
    file = sqlite_file(tracking_uri)
    return file is not None and not file.exists()


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
def patience(retries: int, timeout_s: int, always: bool = False) -> Iterator[None]:
    """For the block, how often MLflow's client repeats an HTTP request, and how long it waits for an answer; by default
    it tries for minutes. What the user has set stays, unless the number of retries is to hold `always`.

    MLflow reads both from the environment, which threads share: of blocks under way, the newest decides, and after the
    last the environment is the user's again.
    """
    with _patience:
        if not _blocks:
            _users.update({name: os.environ.get(name) for name in (_RETRIES, _TIMEOUT)})
        wanted = {_RETRIES: str(retries), _TIMEOUT: str(timeout_s)}
        ours = {name: value for name, value in wanted.items() if _users[name] is None or (always and name == _RETRIES)}
        block = object()
        _blocks[block] = ours
        _apply()
    try:
        yield
    finally:
        with _patience:
            del _blocks[block]
            _apply()


def _apply() -> None:
    for name, users in _users.items():
        value = next((ours[name] for ours in reversed(_blocks.values()) if name in ours), users)
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _probe_database(tracking_uri: str) -> None:
    """MLflow tries a database for 100 s, with a warning each time; whether it lets one in shows at once."""
    try:
        url = urlsplit(tracking_uri)
        port = url.port or _DATABASE_PORTS.get(url.scheme.split("+")[0])
    except ValueError:  # its text may hold a part of the password
        raise SpecError(
            "the tracking URI cannot be read; in a user name or password, write / as %2F, @ as %40, : as %3A, # as %23"
        ) from None
    if url.scheme.startswith("http") or not url.hostname or port is None:
        return
    try:
        socket.create_connection((url.hostname, port), timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise TrackingUnavailable(f"no database answers at {url.hostname}:{port}: {error}") from error
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(tracking_uri)
        engine.connect().close()
        engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise TrackingUnavailable(masked(f"no MLflow tracking at {tracking_uri}: {error}")) from error
