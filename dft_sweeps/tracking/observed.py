"""What all attempts at trials, in any sweep of equal measures, have shown so far: schedulers and searches go by it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dft_sweeps.tracking import names
from dft_sweeps.tracking.search import sweep_experiments, trial_runs

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


def accuracies(
    client: MlflowClient, training_ids: Iterable[str], measures: str, prefix: str
) -> dict[str, dict[int, float]]:
    """Training id to step to the macro average of accuracies; where attempts measured a step twice, the newest counts.

    Args:
        prefix: of the sampling's metrics (`names.sampling_prefixes`).
    """
    found: dict[str, dict[int, float]] = {}
    for run in _oldest_first(client, training_ids, measures):
        held_out, plain = (
            names.eval_metric(prefix, names.AVERAGE, name) for name in ("selection_accuracy", "accuracy")
        )
        key = held_out if held_out in run.data.metrics else plain
        if key in run.data.metrics:
            points = client.get_metric_history(run.info.run_id, key)
            known = found.setdefault(run.data.tags[names.TRAINING_ID_TAG], {})
            known.update((point.step, point.value) for point in points)
    return {id_: dict(sorted(values.items())) for id_, values in found.items()}


def trained_steps(client: MlflowClient, training_ids: Iterable[str], measures: str) -> dict[str, int]:
    """Training id to the last optimizer step of which any attempt has a row."""
    key = names.train_metric("nll")
    found: dict[str, int] = {}
    for run in _oldest_first(client, training_ids, measures):
        # MLflow's own mapping of metrics lacks their steps.
        steps = [metric.step for metric in run.data.to_proto().metrics if metric.key == key]
        training_id = run.data.tags[names.TRAINING_ID_TAG]
        found[training_id] = max([found.get(training_id, 0), *steps])
    return found


def failed(client: MlflowClient, training_ids: Iterable[str], measures: str) -> set[str]:
    """Training ids of those whose newest attempt has failed."""
    newest = {run.data.tags[names.TRAINING_ID_TAG]: run for run in _oldest_first(client, training_ids, measures)}
    return {training_id for training_id, run in newest.items() if run.info.status == "FAILED"}


def _oldest_first(client: MlflowClient, training_ids: Iterable[str], measures: str) -> list[Run]:
    return trial_runs(client, sweep_experiments(client), training_ids, measures)[::-1]
