"""Reads sweeps, trials and their measurements back, from MLflow alone. Keeps no state and changes nothing."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking import names, question_results
from dft_sweeps.tracking.question_results import QuestionResults
from dft_sweeps.tracking.store import TrackingUnavailable, connect, outage_as_error
from dft_sweeps.tracking.writer import LARGEST

if TYPE_CHECKING:
    from mlflow.entities import Run

WAITING = "WAITING"
"""Status of a trial that no run was opened for yet."""


@dataclass(frozen=True)
class SweepRow:
    sweep_id: str
    name: str
    status: str
    """RUNNING, FINISHED, FAILED or KILLED."""
    started: datetime
    trials: int
    finished: int
    """How many of its trials are finished, here or in another sweep."""
    run_id: str
    experiment_id: str
    measures: str
    """Hash of what its points mean."""


@dataclass(frozen=True)
class TrialRow:
    training_id: str
    name: str
    axes: dict[str, Any]
    """Dotted path (or ``variant``) to this trial's value."""
    status: str
    """As of a sweep, or WAITING."""
    run_id: str | None
    """The best run of this trial in any sweep; None when there is none."""
    params: dict[str, str]
    metrics: dict[str, float]
    """Every metric at its highest step."""
    resumed_at: int | None
    """The step this run went on from, of an attempt before it; None when it began at step 0."""
    mixed_provenance: str | None
    """How the conditions changed under which its attempts ran; None when they did not."""


class Reader:
    """Reads what `Tracker` wrote.

    Raises:
        SpecError: the SQLite database that `tracking_uri` names is absent.
        TrackingUnavailable: nothing answers at `tracking_uri`. So do all methods.
    """

    def __init__(self, tracking_uri: str) -> None:
        try:
            self._client = connect(tracking_uri, create=False)
        except FileNotFoundError as error:
            raise SpecError(
                f"no sweeps here: there is no tracking database {error}. Run a sweep first, or say with "
                "--storage or --tracking-uri where they are"
            ) from error

    @outage_as_error
    def sweeps(self) -> list[SweepRow]:
        """All sweeps, newest first."""
        runs = self._runs()
        return [self._sweep_row(run, runs) for run in runs if _is_sweep(run)]

    @outage_as_error
    def find_sweep(self, wanted: str) -> SweepRow:
        """The sweep with this id, this name (the newest of them), or the one whose id or name starts so.

        Raises:
            SpecError: there is none, or the beginning fits several; lists the candidates.
        """
        runs = self._runs()
        parents = [run for run in runs if _is_sweep(run)]
        experiments = self._experiments()
        by_id = {run.data.tags[names.SWEEP_ID_TAG]: run for run in reversed(parents)}
        by_name = {experiments[run.info.experiment_id]: run for run in reversed(parents)}
        chosen = by_id.get(wanted) or by_name.get(wanted)
        if chosen is None:
            starting = {id_: run for id_, run in by_id.items() if id_.startswith(wanted)} or {
                name: run for name, run in by_name.items() if name.startswith(wanted)
            }
            if len(starting) != 1:
                raise SpecError(_no_such_sweep(wanted, starting or by_id, experiments))
            (chosen,) = starting.values()
        return self._sweep_row(chosen, runs)

    @outage_as_error
    def trials(self, sweep: SweepRow) -> list[TrialRow]:
        """The sweep's trials in the order of its grid, each with its best run of equal measures in any sweep.

        A finished run is best; then one of this sweep, then a running one, then the newest.
        """
        best = _best(self._runs(), sweep.measures, sweep.run_id)
        rows = []
        for listed in self._listed(sweep.run_id):
            run = best.get(listed["training_id"])
            rows.append(
                TrialRow(
                    training_id=listed["training_id"],
                    name=listed["name"],
                    axes=listed["axes"],
                    status=run.info.status if run else WAITING,
                    run_id=run.info.run_id if run else None,
                    params=dict(run.data.params) if run else {},
                    metrics={key: _measured(value) for key, value in run.data.metrics.items()} if run else {},
                    resumed_at=_resumed_at(run) if run else None,
                    mixed_provenance=run.data.tags.get(names.MIXED_PROVENANCE_TAG) if run else None,
                )
            )
        return rows

    @outage_as_error
    def curve(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """(step, value) by rising step; empty for a metric that was never logged."""
        points = self._client.get_metric_history(run_id, key)
        return sorted((point.step, _measured(point.value)) for point in points)

    @outage_as_error
    def evaluated_steps(self, run_id: str) -> list[int]:
        """Steps, rising, whose results are recorded question by question."""
        artifacts = self._client.list_artifacts(run_id, question_results.FOLDER)
        return sorted(question_results.step_of(Path(each.path).name) for each in artifacts)

    @outage_as_error
    def question_results(self, run_id: str, step: int) -> list[QuestionResults]:
        """What each grader said of a checkpoint, by sampling and benchmark, counted by question."""
        path = f"{question_results.FOLDER}/{question_results.artifact_name(step)}"
        return question_results.from_json(self._artifact(run_id, path))

    @outage_as_error
    def finished_trials(self, training_ids: Iterable[str], measures: str) -> dict[str, str]:
        """Which of these trials are finished, in any sweep of equal measures: training id to run id."""
        best = _best(self._runs(), measures)
        wanted = {id_: best[id_] for id_ in training_ids if id_ in best}
        return {id_: run.info.run_id for id_, run in wanted.items() if run.info.status == "FINISHED"}

    @outage_as_error
    def spec_text(self, sweep: SweepRow) -> str:
        """The resolved spec, as YAML."""
        return self._artifact(sweep.run_id, names.SPEC_ARTIFACT)

    def _experiments(self) -> dict[str, str]:
        found = self._client.search_experiments(filter_string=f"tags.`{names.EXPERIMENT_TAG}` = '1'")
        return {experiment.experiment_id: experiment.name for experiment in found}

    def _runs(self) -> list[Run]:
        """Every sweep and trial, newest first."""
        experiments = list(self._experiments())
        runs: list[Run] = []
        token = None
        while experiments:
            page = self._client.search_runs(experiments, max_results=1000, page_token=token)
            runs += page
            token = page.token
            if not token:
                break
        return runs

    def _sweep_row(self, run: Run, runs: Sequence[Run]) -> SweepRow:
        measures = run.data.tags[names.MEASURES_TAG]
        best = _best(runs, measures)
        listed = [trial["training_id"] for trial in self._listed(run.info.run_id)]
        return SweepRow(
            sweep_id=run.data.tags[names.SWEEP_ID_TAG],
            name=self._client.get_experiment(run.info.experiment_id).name,
            status=run.info.status,
            started=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
            trials=len(listed),
            finished=sum(id_ in best and best[id_].info.status == "FINISHED" for id_ in listed),
            run_id=run.info.run_id,
            experiment_id=run.info.experiment_id,
            measures=measures,
        )

    def _listed(self, run_id: str) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(self._artifact(run_id, names.TRIALS_ARTIFACT))
        return listed

    def _artifact(self, run_id: str, path: str) -> str:
        try:
            with tempfile.TemporaryDirectory() as folder:
                return Path(self._client.download_artifacts(run_id, path, folder)).read_text(encoding="utf-8")
        except OSError as error:
            raise TrackingUnavailable(f"artifact {path} of run {run_id} cannot be read: {error}") from error


def _is_sweep(run: Run) -> bool:
    tags = run.data.tags
    return {names.SWEEP_ID_TAG, names.MEASURES_TAG} <= tags.keys() and names.PARENT_TAG not in tags


def _best(runs: Iterable[Run], measures: str, parent: str | None = None) -> dict[str, Run]:
    """Training id to its best run of these measures; the order is told at `Reader.trials`."""

    def rank(run: Run) -> tuple[bool, bool, bool, int]:
        status = run.info.status
        own = run.data.tags.get(names.PARENT_TAG) == parent
        return status == "FINISHED", own, status == "RUNNING", run.info.start_time

    trials = [
        run
        for run in runs
        if names.TRAINING_ID_TAG in run.data.tags and run.data.tags.get(names.MEASURES_TAG) == measures
    ]
    return {run.data.tags[names.TRAINING_ID_TAG]: run for run in sorted(trials, key=rank)}


def _no_such_sweep(wanted: str, candidates: Mapping[str, Run], experiments: Mapping[str, str]) -> str:
    lines = [
        f"  {run.data.tags[names.SWEEP_ID_TAG]}  {experiments[run.info.experiment_id]}"
        for run in list(candidates.values())[::-1][:10]
    ]
    if not lines:
        return f"no sweep {wanted!r}: there are no sweeps yet"
    several = all(key.startswith(wanted) for key in candidates)
    what = f"{wanted!r} fits several sweeps" if several else f"no sweep {wanted!r}"
    more = f"\n  and {len(candidates) - len(lines)} more" if len(candidates) > len(lines) else ""
    return f"{what}; choose one of:\n" + "\n".join(lines) + more


def _resumed_at(run: Run) -> int | None:
    step = run.data.tags.get(names.RESUMED_AT_TAG)
    return int(step) if step else None


def _measured(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) >= LARGEST else value
