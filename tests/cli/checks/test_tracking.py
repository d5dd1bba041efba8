"""MLflow backends that do not answer or do not keep what is written, and that nothing is left in good ones."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from dft_sweeps.cli.checks import tracking
from dft_sweeps.cli.checks.finding import Context
from tests.cli.checks.advised import advised


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dft_sweeps.tracking.store import connect

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{file}", create=True)
    return file


@pytest.fixture
def copy(context: Context, database: Path) -> Path:
    """A database of its own for the test, which the context names."""
    context.storage.mkdir()
    return Path(shutil.copy(database, context.storage / "mlflow.db"))


def execute(database: Path, statement: str) -> None:
    connection = sqlite3.connect(database)
    with connection:
        connection.execute(statement)
    connection.close()


def rows(database: Path) -> dict[str, int]:
    connection = sqlite3.connect(database)
    tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
    counts = {name: connection.execute(f"select count(*) from {name}").fetchone()[0] for name in tables}
    connection.close()
    return counts


def test_a_database_is_written_to_and_left_as_it_was(context: Context, copy: Path) -> None:
    before = rows(copy)
    advised(tracking.tracking(context), "ok", "keeps what is written", "")
    assert rows(copy) == before


def test_no_database_is_left_where_there_was_none(context: Context, tmp_path: Path) -> None:
    advised(tracking.tracking(context), "ok", f"no database yet at {context.storage / 'mlflow.db'}", "")
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_cannot_be_written_to(context: Context, copy: Path) -> None:
    execute(copy, "create trigger no before insert on metrics begin select raise(abort, 'no metrics here'); end")
    before = rows(copy)
    finding = tracking.tracking(context)
    advised(finding, "failed", "no metrics here", f"mv {copy} {copy}.broken")
    assert rows(copy) == before


def test_a_file_that_is_no_database(context: Context) -> None:
    context.storage.mkdir()
    (context.storage / "mlflow.db").write_text("not a database " * 100)
    advised(tracking.tracking(context), "failed", "file is not a database", "a new database is made")


def test_a_database_of_another_mlflow(context: Context, copy: Path) -> None:
    execute(copy, "update alembic_version set version_num = '451aebb31d03'")
    finding = tracking.tracking(context)
    advised(finding, "failed", "out-of-date database schema", f"mlflow db upgrade {context.tracking_uri}")


def test_no_server(context: Context, free_port: int) -> None:
    context.tracking_uri = f"http://127.0.0.1:{free_port}"
    advised(tracking.tracking(context), "failed", "Connection refused", f"curl {context.tracking_uri}/health")
    context.tracking_uri = f"postgresql://127.0.0.1:{free_port}/sweeps"
    advised(tracking.tracking(context), "failed", "no database answers", "--tracking-uri http://HOST:PORT")


def test_no_password_is_shown(context: Context, free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    def refused(uri: str, create: bool) -> None:
        raise MlflowException(f"API request to {uri}/api failed")

    context.tracking_uri = f"http://bob:pa55@127.0.0.1:{free_port}"
    address = f"http://bob:***@127.0.0.1:{free_port}"
    advised(tracking.tracking(context), "failed", "Connection refused", f"curl {address}/health")
    monkeypatch.setattr(tracking, "connect", refused)
    advised(tracking.tracking(context), "failed", f"API request to {address}/api failed", f"curl {address}/health")
    monkeypatch.setattr(tracking, "connect", lambda uri, create: None)
    monkeypatch.setattr(tracking, "_write_and_delete", lambda client: [])
    advised(tracking.tracking(context), "failed", f"{address} took a metric", f"curl {address}/health")


def test_no_directory_for_the_database(context: Context) -> None:
    context.tracking_uri = "sqlite:////proc/self/sweeps/mlflow.db"
    advised(tracking.tracking(context), "failed", "no database can be made", "mkdir -p /proc/self/sweeps")
