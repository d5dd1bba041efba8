"""Real tracking services for tests: a private PostgreSQL cluster, and an MLflow server that can be killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from dft_sweeps.orchestration.cluster import free_port

USER, PASSWORD = "sweeper", "s3cr3t-of-the-test"


def postgres_binaries() -> Path | None:
    """Where Debian puts `initdb` and `postgres`; the newest version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parents[1].name))
    return found[-1].parent if found else None


@contextlib.contextmanager
def postgres_cluster(binaries: Path) -> Iterator[Callable[[str], str]]:
    """A new cluster; gives a function from a database's name to its URI. Root may not run PostgreSQL, so it runs as the
    user that its package makes."""
    directory = Path(tempfile.mkdtemp(prefix="dft-sweeps-postgres-"))
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        shutil.chown(directory, user)
    port = free_port()
    as_user = {"user": user, "group": user, "extra_groups": []} if user else {}
    password = directory / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)

    def call(*command: str) -> None:
        subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True, **as_user)

    def uri(database: str) -> str:
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{port}/{database}"

    data = directory / "data"
    call(
        *(f"{binaries}/initdb", "-D", f"{data}", "-U", USER, "--auth=scram-sha-256", f"--pwfile={password}"),
        *("--no-sync", "--encoding=UTF8", "--locale=C"),
    )
    process = subprocess.Popen(
        [f"{binaries}/postgres", "-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1",
         "-c", "unix_socket_directories=", "-c", "fsync=off"],
        cwd=directory, stderr=(directory / "log").open("w"), **as_user,
    )  # fmt: skip
    try:
        wait_for(uri("postgres"), process)
        yield uri
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        shutil.rmtree(directory, ignore_errors=True)


class MlflowServer:
    """`mlflow serve` on a directory, at one address through all its lives."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        store = ["--backend-store-uri", f"sqlite:///{self.directory}/server.db"]
        artifacts = ["--artifacts-destination", f"{self.directory}/artifacts", "--workers", "1"]
        with (self.directory / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                [*command, *store, *artifacts], stdout=log, stderr=log, start_new_session=True,
                env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
            )  # fmt: skip
        deadline = time.monotonic() + 180
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                assert self._process.poll() is None and time.monotonic() < deadline, self.log
                time.sleep(0.1)

    def kill(self) -> None:
        """kill -9 of it and its workers."""
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    @property
    def log(self) -> str:
        return (self.directory / "server.log").read_text()[-3000:]


def wait_for(uri: str, process: subprocess.Popen[bytes]) -> None:
    """Until the database lets one in; its port is open before that."""
    import psycopg

    deadline = time.monotonic() + 60
    while True:
        try:
            return psycopg.connect(uri, connect_timeout=5).close()
        except psycopg.OperationalError:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
