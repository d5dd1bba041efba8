from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.running import SPEC, Finished, run


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
