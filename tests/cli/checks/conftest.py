from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dft_sweeps.cli.checks.finding import Context
from dft_sweeps.orchestration import cluster
from dft_sweeps.training.model_files import EMBEDDED


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    place = tmp_path / "storage"
    made = Context(place, f"sqlite:///{place / 'mlflow.db'}", None, EMBEDDED)
    with made.resources:
        yield made


@pytest.fixture
def free_port() -> int:
    return cluster.free_port()
