from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.running import SPEC, Finished, run

if TYPE_CHECKING:
    from tests.end_to_end.disturbing import Points


@dataclass(frozen=True)
class FinishedSweep:
    storage: Path
    outcome: Finished

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.storage / 'mlflow.db'}"


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory) -> FinishedSweep:
    """The two-trial sweep, run once with the real command: Ray, Train, Tune, Serve, vLLM and MLflow."""
    storage = tmp_path_factory.mktemp("sweep") / "storage"
    outcome = run("run", str(SPEC), "--storage", str(storage))
    assert outcome.code == 0, outcome.text
    return FinishedSweep(storage, outcome)


@dataclass(frozen=True)
class Whole:
    """The sweep of `disturbing.sweep`, undisturbed."""

    storage: Path
    points: Points


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """What disturbed ones are compared with, wherever their trials ran."""
    from tests.end_to_end.disturbing import database, require_whole, sweep  # imports Ray

    storage = tmp_path_factory.mktemp("whole") / "storage"
    found = require_whole(sweep(storage), database(storage))
    assert {steps[-1][0] for steps in found.values()} == {12}
    return Whole(storage, found)
