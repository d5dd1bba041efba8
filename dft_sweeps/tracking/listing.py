"""The list of a sweep's trials in MLflow, which grows while a search proposes more of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dft_sweeps.tracking import names
from dft_sweeps.tracking.store import read_artifact

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


def listed(client: MlflowClient, run_id: str) -> list[dict[str, Any]]:
    """Per trial of the sweep whose own run this is: ``training_id``, ``name`` and ``axes``."""
    found: list[dict[str, Any]] = json.loads(read_artifact(client, run_id, names.TRIALS_ARTIFACT))
    return found


def grown(client: MlflowClient, run: Run, trials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the sweep's run lists of a search already, by the names that these trials have now, and then those of these
    trials that it does not."""
    before = listed(client, run.info.run_id) if names.TO_PROPOSE_TAG in run.data.tags else []
    given = {trial["training_id"]: dict(trial) for trial in trials}
    return [*(given.pop(trial["training_id"], trial) for trial in before), *given.values()]
