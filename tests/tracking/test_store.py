"""What is printed of a tracking URI."""

from __future__ import annotations

import pytest

from dft_sweeps.tracking.store import masked


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
