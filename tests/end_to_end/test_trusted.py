"""A model that brings code of its own, through a whole sweep: its workers and engines run that where it is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dft_sweeps.training.trusted import VARIABLE
from tests.end_to_end.conftest import FinishedSweep
from tests.end_to_end.disturbing import Points, points
from tests.end_to_end.running import SPEC, run
from tests.training.test_trusted import write_own_model

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_own_code_is_run_where_it_is_allowed_and_nowhere_else(tmp_path: Path, finished_sweep: FinishedSweep) -> None:
    own, modules = write_own_model(tmp_path / "own"), tmp_path / "modules"
    command = ("run", str(SPEC), "--storage", str(tmp_path / "storage"), "--set", f"trial.model.path={own}")
    environment = {"HF_MODULES_CACHE": str(modules)}
    refused = run(*command, environment=environment)
    assert refused.code == 2 and "brings code of its own, which is run only where" in refused.text, refused.text
    assert not list(tmp_path.rglob("ran"))
    allowed = run(*command, environment=environment | {VARIABLE: str(own)})
    assert allowed.code == 0, allowed.text
    assert list(modules.rglob("ran"))
    assert trained(f"sqlite:///{tmp_path / 'storage' / 'mlflow.db'}") == trained(finished_sweep.tracking_uri)


def trained(tracking_uri: str) -> Points:
    """What training alone has measured. The own model's weights are the embedded one's."""
    return {(trial, key): found for (trial, key), found in points(tracking_uri).items() if key.startswith("train/")}
