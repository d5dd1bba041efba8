"""Fixtures for tests against real tracking services."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from dft_sweeps.tracking.writer import Tracker
from tests.tracking.servers import MlflowServer, postgres_binaries, postgres_cluster

NewDatabase = Callable[[], str]


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewDatabase]:
    """Makes an empty MLflow database on PostgreSQL, and gives its URI."""
    binaries = postgres_binaries()
    missing = "apt-get install postgresql" if binaries is None else "pip install 'psycopg[binary]'"
    if binaries is None or find_spec("psycopg") is None:
        reason = f"PostgreSQL is missing: {missing}"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    import psycopg

    numbers = itertools.count()
    with postgres_cluster(binaries) as uri:

        def run(statement: str) -> None:
            with psycopg.connect(uri("postgres"), autocommit=True) as connection:
                connection.execute(statement)

        run("CREATE DATABASE empty")
        Tracker(uri("empty"), None)._client._tracking_client.store.engine.dispose()
        run("ALTER DATABASE empty ALLOW_CONNECTIONS false")

        def new() -> str:
            name = f"mlflow_{next(numbers)}"
            run(f"CREATE DATABASE {name} TEMPLATE empty")
            return uri(name)

        yield new


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    """An MLflow server on SQLite, running."""
    directory = tmp_path / "server"
    directory.mkdir()
    found = MlflowServer(directory)
    found.start()
    yield found
    found.kill()
