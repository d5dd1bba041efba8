"""Searches in MLflow that its writer and its reader share: experiments of sweeps, runs by tag, finished trials."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from dft_sweeps.tracking import names

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

PAGE = 1000
"""Runs or experiments of one request; a server refuses more."""
ONE_BY_ONE = 50
"""Up to so many trials are asked for each by its id; of more, all runs of their measures are read."""
SWEEPS = (
    f"tags.`{names.SWEEP_ID_TAG}` != '' and tags.`{names.MEASURES_TAG}` != '' and tags.`{names.PARENT_TAG}` IS NULL"
)
"""Holds for the runs of sweeps, which get these tags once their artifacts are there."""


def sweep_experiments(client: MlflowClient) -> dict[str, str]:
    """Id to name of every experiment that holds sweeps."""
    marked = f"tags.`{names.EXPERIMENT_TAG}` = '1'"
    found = _pages(
        lambda size, token: client.search_experiments(filter_string=marked, max_results=size, page_token=token)
    )
    return {experiment.experiment_id: experiment.name for experiment in found}


def search_runs(
    client: MlflowClient, experiments: Iterable[str], condition: str, limit: int | None = None
) -> list[Run]:
    """Runs for which the condition holds, newest first; `limit` of them at most."""
    ids = list(experiments)
    if not ids:
        return []
    found = _pages(lambda size, token: client.search_runs(ids, condition, max_results=size, page_token=token), limit)
    # A run that is made meanwhile shifts the pages.
    return list({run.info.run_id: run for run in found}.values())


def trial_runs(
    client: MlflowClient, experiments: Iterable[str], training_ids: Iterable[str], measures: str, condition: str = ""
) -> list[Run]:
    """Runs of these trials with these measures, in any sweep, for which the condition holds; newest first."""
    ids, wanted = list(experiments), set(training_ids)
    conditions = [f"tags.`{names.MEASURES_TAG}` = '{measures}'", *([condition] if condition else [])]
    one_by_one = [f"tags.`{names.TRAINING_ID_TAG}` = '{each}'" for each in sorted(wanted)]
    asked = one_by_one if len(wanted) <= ONE_BY_ONE else [f"tags.`{names.TRAINING_ID_TAG}` != ''"]
    found = [run for each in asked for run in search_runs(client, ids, " and ".join([each, *conditions]))]
    found = [run for run in found if run.data.tags[names.TRAINING_ID_TAG] in wanted]
    return sorted(found, key=lambda run: -run.info.start_time)


def finished_runs(
    client: MlflowClient, experiments: Iterable[str], training_ids: Iterable[str], measures: str, sweep_id: str = ""
) -> dict[str, str]:
    """Which of these trials are finished, in any sweep of equal measures: training id to its newest finished run.

    Args:
        sweep_id: the sweep in which trials that its scheduler stopped count as finished; in none, if this is empty.
    """
    found = trial_runs(client, experiments, training_ids, measures, "attributes.status = 'FINISHED'")
    stopped = [run for run in found if names.STOPPED_AT_TAG in run.data.tags]
    own = [run for run in stopped if run.data.tags[names.SWEEP_ID_TAG] == sweep_id]
    whole = [run for run in found if names.STOPPED_AT_TAG not in run.data.tags]
    return {run.data.tags[names.TRAINING_ID_TAG]: run.info.run_id for run in [*reversed(own), *reversed(whole)]}


def _pages(page: Callable[[int, str | None], Any], limit: int | None = None) -> list[Any]:
    found: list[Any] = []
    token = None
    while limit is None or len(found) < limit:
        batch = page(PAGE if limit is None else min(PAGE, limit - len(found)), token)
        found += batch
        token = batch.token
        if not token:
            break
    return found
