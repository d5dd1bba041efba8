"""What is printed of a tracking URI."""

from __future__ import annotations

import os

import pytest

from dft_sweeps.tracking.store import masked, patience


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://bob:s3cr3t@db:5432/mlflow", "postgresql://bob:***@db:5432/mlflow"),
        ("https://bob:p%40ss@host/", "https://bob:***@host/"),
        ("https://bob@host/", "https://bob@host/"),
        ("sqlite:////storage/mlflow.db", "sqlite:////storage/mlflow.db"),
    ],
)
def test_a_password_is_never_shown(uri: str, shown: str) -> None:
    assert masked(uri) == shown


def test_blocks_of_patience_in_two_threads_leave_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block ends while the other, begun later, goes on: as the background writer's and the command's do."""
    monkeypatch.setattr("dft_sweeps.tracking.store._blocks", {})
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)

    def found() -> tuple[str | None, str | None]:
        return os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES"), os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT")

    first, second = patience(1, 10), patience(0, 5, always=True)
    first.__enter__()
    assert found() == ("1", "77")
    second.__enter__()
    assert found() == ("0", "77")
    first.__exit__(None, None, None)
    assert found() == ("0", "77")
    second.__exit__(None, None, None)
    assert found() == (None, "77")
