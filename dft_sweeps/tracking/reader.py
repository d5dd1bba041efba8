"""Reads sweeps, trials and their measurements back, from MLflow alone. Keeps no state and changes nothing.

A sweep's own run says which of its trials are finished (`names.TRIAL_TAG`), so that listing sweeps reads no run of a
trial. The runs of sweeps recorded before that was so lack it; theirs are looked up."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking import names, observed, question_results
from dft_sweeps.tracking.links import Reused
from dft_sweeps.tracking.question_results import QuestionResults
from dft_sweeps.tracking.search import SWEEPS, finished_runs, search_runs, sweep_experiments, trial_runs
from dft_sweeps.tracking.store import connect, outage_as_error, read_artifact
from dft_sweeps.tracking.writer import LARGEST

if TYPE_CHECKING:
    from mlflow.entities import Run

WAITING = "WAITING"
"""Status of a trial that no run was opened for yet."""
_ID = f"tags.`{names.SWEEP_ID_TAG}`"
_WANTED = re.compile(r"[\w.-]+")
"""What ids and names are made of; anything else is none, and could not stand in a filter."""


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
    to_propose: int = 0
    """How many trials its search has still to propose, beside `trials`."""


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
    steps: dict[str, int]
    """The highest step of every metric."""
    resumed_at: int | None
    """The step this run went on from, of an attempt before it; None when it began at step 0."""
    mixed_provenance: str | None
    """How the conditions changed under which its attempts ran; None when they did not."""
    stopped_at: int | None = None
    """The step at which the sweep's scheduler stopped it; None where it did not."""
    diverged_at: int | None = None
    """The step whose loss or gradient was not finite, which is why it failed; None where it did not."""


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
        experiments = sweep_experiments(self._client)
        return self._rows(search_runs(self._client, experiments, SWEEPS), experiments)

    @outage_as_error
    def newest_sweeps(self, limit: int) -> tuple[list[SweepRow], bool]:
        """The newest sweeps, newest first, at most `limit` of them; and whether there are older ones. How many that is,
        MLflow does not say without sending them."""
        experiments = sweep_experiments(self._client)
        found = search_runs(self._client, experiments, SWEEPS, limit + 1)
        return self._rows(found[:limit], experiments), len(found) > limit

    @outage_as_error
    def find_sweep(self, wanted: str) -> SweepRow:
        """The sweep with this id, this name (the newest of them), or the one whose id or name starts so.

        Raises:
            SpecError: there is none, or the beginning fits several; lists the candidates.
        """
        experiments = sweep_experiments(self._client)
        if _WANTED.fullmatch(wanted):
            own = [id_ for id_, name in experiments.items() if name == wanted]
            exact = search_runs(self._client, experiments, f"{SWEEPS} and {_ID} = '{wanted}'", limit=1)
            if chosen := exact or search_runs(self._client, own, SWEEPS, limit=1):
                return self._rows(chosen, experiments)[0]
        parents = search_runs(self._client, experiments, SWEEPS)
        by_id = {run.data.tags[names.SWEEP_ID_TAG]: run for run in reversed(parents)}
        by_name = {experiments[run.info.experiment_id]: run for run in reversed(parents)}
        starting = {id_: run for id_, run in by_id.items() if id_.startswith(wanted)} or {
            name: run for name, run in by_name.items() if name.startswith(wanted)
        }
        if len(starting) != 1:
            raise SpecError(_no_such_sweep(wanted, starting or by_id, experiments))
        return self._rows(list(starting.values()), experiments)[0]

    @outage_as_error
    def trials(self, sweep: SweepRow) -> list[TrialRow]:
        """The sweep's trials in the order of its grid, each with its best run of equal measures in any sweep.

        A finished run is best; then one of this sweep, then a running one, then the newest.
        """
        listed = self._listed(sweep.run_id)
        own = search_runs(self._client, [sweep.experiment_id], f"tags.`{names.PARENT_TAG}` = '{sweep.run_id}'")
        own = [run for run in own if run.data.tags.get(names.MEASURES_TAG) == sweep.measures]
        best = _best(own, sweep.run_id)
        rest = [each["training_id"] for each in listed if not _is_finished(best.get(each["training_id"]))]
        if rest:
            best |= _best(trial_runs(self._client, sweep_experiments(self._client), rest, sweep.measures), sweep.run_id)
        return [_trial_row(each, best.get(each["training_id"])) for each in listed]

    @outage_as_error
    def curve(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """(step, value) by rising step; empty for a metric that was never logged."""
        points = self._client.get_metric_history(run_id, key)
        return sorted((point.step, _measured(point.value)) for point in points)

    @outage_as_error
    def evaluated_steps(self, run_id: str) -> list[int]:
        """Steps, rising, whose results are recorded question by question."""
        found = self._client.list_artifacts(run_id, question_results.FOLDER)
        return sorted(question_results.step_of(Path(each.path).name) for each in found)

    @outage_as_error
    def question_results(self, run_id: str, step: int) -> list[QuestionResults]:
        """What each grader said of a checkpoint, by sampling and benchmark, counted by question."""
        path = f"{question_results.FOLDER}/{question_results.artifact_name(step)}"
        return question_results.from_json(self._artifact(run_id, path))

    @outage_as_error
    def finished_trials(self, training_ids: Iterable[str], measures: str, sweep_id: str = "") -> dict[str, str]:
        """Which of these trials are finished, in any sweep of equal measures: training id to run id. One that a
        scheduler stopped is finished in the sweep `sweep_id` alone, if that is where it was stopped."""
        return finished_runs(self._client, sweep_experiments(self._client), training_ids, measures, sweep_id)

    @outage_as_error
    def accuracy_at(self, training_ids: Iterable[str], measures: str, prefix: str) -> dict[str, dict[int, float]]:
        """`observed.accuracies` of these trials: on the questions held out for selection, where there are some."""
        return observed.accuracies(self._client, training_ids, measures, prefix)

    @outage_as_error
    def trained_steps(self, training_ids: Iterable[str], measures: str) -> dict[str, int]:
        return observed.trained_steps(self._client, training_ids, measures)

    @outage_as_error
    def failed_trials(self, training_ids: Iterable[str], measures: str) -> set[str]:
        return observed.failed(self._client, training_ids, measures)

    @outage_as_error
    def finished_elsewhere(self, finished: Mapping[str, str], measures: str, parent: str) -> list[Reused]:
        """Of these finished runs, by training id, those of other sweeps than the one whose own run is `parent`, where
        that has no finished run of the trial itself."""
        if not finished:
            return []
        experiments = sweep_experiments(self._client)
        done = f"attributes.status = 'FINISHED' and tags.`{names.MEASURES_TAG}` = '{measures}' and "
        own = search_runs(self._client, experiments, f"{done} tags.`{names.PARENT_TAG}` = '{parent}'")
        left = finished.keys() - {run.data.tags[names.TRAINING_ID_TAG] for run in own}
        listed = ", ".join(f"'{finished[training_id]}'" for training_id in sorted(left))
        found = search_runs(self._client, experiments, f"{done} attributes.run_id IN ({listed})") if left else []
        runs = {run.data.tags[names.TRAINING_ID_TAG]: run for run in found}
        return [
            Reused(
                training_id,
                runs[training_id].info.run_id,
                runs[training_id].info.run_name,
                runs[training_id].data.tags[names.SWEEP_ID_TAG],
                runs[training_id].info.experiment_id,
            )
            for training_id in finished
            if training_id in runs
        ]

    @outage_as_error
    def spec_text(self, sweep: SweepRow) -> str:
        """The resolved spec, as YAML."""
        return self._artifact(sweep.run_id, names.SPEC_ARTIFACT)

    def _rows(self, runs: Iterable[Run], experiments: Mapping[str, str]) -> list[SweepRow]:
        return [self._sweep_row(run, experiments) for run in runs]

    def _sweep_row(self, run: Run, experiments: Mapping[str, str]) -> SweepRow:
        tags = run.data.tags
        states = [value for key, value in tags.items() if key.startswith(names.TRIAL_TAG)]
        trials, finished = len(states), len(states) - states.count(names.UNFINISHED)
        if not states:
            ids = [trial["training_id"] for trial in self._listed(run.info.run_id)]
            trials, finished = len(ids), len(finished_runs(self._client, experiments, ids, tags[names.MEASURES_TAG]))
        return SweepRow(
            sweep_id=tags[names.SWEEP_ID_TAG],
            name=experiments[run.info.experiment_id],
            status=run.info.status,
            started=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
            trials=trials,
            finished=finished,
            run_id=run.info.run_id,
            experiment_id=run.info.experiment_id,
            measures=tags[names.MEASURES_TAG],
            to_propose=int(tags.get(names.TO_PROPOSE_TAG, 0)),
        )

    def _listed(self, run_id: str) -> Any:
        return json.loads(self._artifact(run_id, names.TRIALS_ARTIFACT))

    def _artifact(self, run_id: str, path: str) -> str:
        return read_artifact(self._client, run_id, path)


def _is_finished(run: Run | None) -> bool:
    return run is not None and run.info.status == "FINISHED"


def _best(runs: Iterable[Run], parent: str) -> dict[str, Run]:
    """Training id to its best run; the order is told at `Reader.trials`. What another sweep stopped is none."""

    def rank(run: Run) -> tuple[bool, bool, bool, int]:
        own = run.data.tags.get(names.PARENT_TAG) == parent
        return _is_finished(run), own, run.info.status == "RUNNING", run.info.start_time

    shown = [run for run in runs if run.data.tags[names.PARENT_TAG] == parent or not _tagged(run, names.STOPPED_AT_TAG)]
    return {run.data.tags[names.TRAINING_ID_TAG]: run for run in sorted(shown, key=rank)}


def _trial_row(listed: Mapping[str, Any], run: Run | None) -> TrialRow:
    # MLflow's own mapping of metrics lacks their steps.
    last = run.data.to_proto().metrics if run else ()
    return TrialRow(
        training_id=listed["training_id"],
        name=listed["name"],
        axes=listed["axes"],
        status=run.info.status if run else WAITING,
        run_id=run.info.run_id if run else None,
        params=dict(run.data.params) if run else {},
        metrics={metric.key: _measured(metric.value) for metric in last},
        steps={metric.key: metric.step for metric in last},
        resumed_at=_tagged(run, names.RESUMED_AT_TAG),
        mixed_provenance=run.data.tags.get(names.MIXED_PROVENANCE_TAG) if run else None,
        stopped_at=_tagged(run, names.STOPPED_AT_TAG) if _is_finished(run) else None,
        diverged_at=_tagged(run, names.DIVERGED_AT_TAG) if run and run.info.status == "FAILED" else None,
    )


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


def _tagged(run: Run | None, tag: str) -> int | None:
    """The step that a tag names."""
    step = run.data.tags.get(tag) if run else None
    return int(step) if step else None


def _measured(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) >= LARGEST else value
