"""The list of a sweep's trials in MLflow, which grows while a search proposes more of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dft_sweeps.tracking import names

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


def listed(client: MlflowClient, run_id: str) -> list[dict[str, Any]]:
    """Per trial of the sweep whose own run this is: ``training_id``, ``name`` and ``axes``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(client.download_artifacts(run_id, names.TRIALS_ARTIFACT, folder))
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def grown(client: MlflowClient, run: Run, trials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the sweep's run lists of a search already, by the names that these trials have now, and then those of these
    trials that it does not."""
    before = listed(client, run.info.run_id) if names.TO_PROPOSE_TAG in run.data.tags else []
    given = {trial["training_id"]: dict(trial) for trial in trials}
    return [*(given.pop(trial["training_id"], trial) for trial in before), *given.values()]
