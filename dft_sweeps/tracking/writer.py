"""Writes sweeps, trials and their measurements to MLflow. One process, and one thread of it, writes a sweep.

Every method can be repeated: opening finds what is there, and a row already logged is left alone, so a
coordinator that died and replays never doubles a point. A dead coordinator leaves its runs in RUNNING; `reconcile`
settles them. A parent run becomes visible to readers (by its tag) only after its artifacts are written.
"""

from __future__ import annotations

import json
import math
import sys
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking import names
from dft_sweeps.tracking.links import Reused, link_tags
from dft_sweeps.tracking.listing import grown
from dft_sweeps.tracking.params import check_limits
from dft_sweeps.tracking.search import finished_runs, search_runs, sweep_experiments
from dft_sweeps.tracking.store import artifact_store, connect, masked, outage_as_error

if TYPE_CHECKING:
    from mlflow.entities import Run

METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100
TAGS_PER_BATCH = 100
LARGEST = sys.float_info.max
"""Stands for infinity: databases cannot hold one. `Reader.curve` turns it back."""

Ended = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class MetricRow:
    key: str
    step: int
    """Optimizer step of the weights measured; 0 is the base model."""
    value: float
    timestamp_ms: int
    """When it was measured, in milliseconds since 1970."""


class Tracker:
    """The writer. See the module for what happens when its process dies.

    Args:
        tracking_uri: what MLflow takes, e.g. ``sqlite:////storage/mlflow.db`` or ``http://host:5000``.
        artifact_root: directory or URI for the artifacts of new experiments; None leaves it to the server.

    Raises:
        TrackingUnavailable: nothing answers at `tracking_uri`. So do all methods.
    """

    def __init__(self, tracking_uri: str, artifact_root: str | None) -> None:
        self._client = connect(tracking_uri, create=True)
        self.address = masked(tracking_uri)
        """The tracking URI without a password."""
        self._artifact_root = artifact_root
        self._logged: dict[str, set[tuple[str, int]]] = {}
        self._ended: list[str] = []

    @outage_as_error
    def open_sweep(
        self,
        name: str,
        sweep_id: str,
        spec_text: str,
        trials: Sequence[Mapping[str, Any]],
        measures: str,
        to_propose: int | None = None,
    ) -> str:
        """The parent run of a sweep, set RUNNING: that of this `sweep_id` in experiment `name`, or a new one.

        Args:
            trials: per trial ``training_id``, ``name`` and ``axes`` (dotted path, or ``variant``, to value). What a
                search has listed already stays.
            measures: hash of what the sweep's points mean; trials of equal measures are shared between sweeps.
            to_propose: how many more a search will propose; None where there is none that proposes.

        Raises:
            SpecError: the experiment was deleted in MLflow.
        """
        assert all({"training_id", "name", "axes"} <= trial.keys() for trial in trials), trials
        experiment_id = self._experiment(name)
        found = self._search(experiment_id, f"tags.`{names.SWEEP_ID_TAG}` = '{sweep_id}'")
        parents = [run for run in found if names.PARENT_TAG not in run.data.tags]
        run_id = parents[0].info.run_id if parents else self._new_run(experiment_id, f"{name} {sweep_id}", {})
        try:
            listed = grown(self._client, self._client.get_run(run_id), trials)
            with artifact_store():
                self._client.log_text(run_id, spec_text, names.SPEC_ARTIFACT)
                self._client.log_text(run_id, json.dumps(listed, indent=1), names.TRIALS_ARTIFACT)
            self._name_trials(run_id, sweep_id, [trial["training_id"] for trial in listed], measures)
            if to_propose is not None:
                self._client.set_tag(run_id, names.TO_PROPOSE_TAG, str(to_propose + len(trials) - len(listed)))
            self._client.set_tag(run_id, names.MEASURES_TAG, measures)
            self._client.set_tag(run_id, names.SWEEP_ID_TAG, sweep_id)
            self._client.update_run(run_id, status="RUNNING")
        except BaseException:
            self._client.set_terminated(run_id, status="FAILED")
            raise
        return run_id

    def _name_trials(self, run_id: str, sweep_id: str, training_ids: Sequence[str], measures: str) -> None:
        """Has the sweep's run say of each of its trials which run finished it; another process may do so meanwhile."""
        present = self._client.get_run(run_id).data.tags
        finished = finished_runs(self._client, sweep_experiments(self._client), training_ids, measures, sweep_id)
        wanted = {f"{names.TRIAL_TAG}{id_}": finished.get(id_, names.UNFINISHED) for id_ in training_ids}
        self._set_tags(run_id, {key: value for key, value in wanted.items() if present.get(key) != value})

    @outage_as_error
    def open_trial(
        self,
        parent_run_id: str,
        training_id: str,
        name: str,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        attempt: str | None = None,
        started_ms: int | None = None,
    ) -> str:
        """A new child run for an attempt at a trial, RUNNING. Attempts are never mixed in one run: their bits may
        differ.

        Args:
            attempt: an id of the caller's for this run, which is found by it if it was opened before.

        Raises:
            SpecError: a param is longer than MLflow keeps.
        """
        check_limits(params)
        parent = self._client.get_run(parent_run_id)
        attempt = attempt or uuid.uuid4().hex
        if found := self._search(parent.info.experiment_id, f"tags.`{names.ATTEMPT_TAG}` = '{attempt}'"):
            run_id: str = found[-1].info.run_id
            self._logged.setdefault(run_id, set())
            self._log_params(run_id, params)
            return run_id
        own = {names.PARENT_TAG: parent_run_id, names.TRAINING_ID_TAG: training_id, names.ATTEMPT_TAG: attempt}
        own |= {tag: parent.data.tags[tag] for tag in (names.SWEEP_ID_TAG, names.MEASURES_TAG)}
        run_id = self._new_run(parent.info.experiment_id, name, {**own, **tags}, started_ms)
        self._logged[run_id] = set()
        self._log_params(run_id, params)
        return run_id

    @outage_as_error
    def log(self, run_id: str, rows: Sequence[MetricRow]) -> int:
        """Logs the rows whose (key, step) the run does not have yet, and says how many that were. The run is one that
        this tracker opened.

        NaN is kept. An infinity is stored as the largest finite number of its sign, and read as infinity.
        Batches of up to 1,000 rows are atomic; the call as a whole is not, but can be repeated.
        """
        logged = self._logged[run_id]
        new = unseen(rows, logged)
        for start in range(0, len(new), METRICS_PER_BATCH):
            batch = new[start : start + METRICS_PER_BATCH]
            self.send(run_id, batch)
            logged.update((row.key, row.step) for row in batch)
        return len(new)

    @outage_as_error
    def send(self, run_id: str, rows: Sequence[MetricRow]) -> None:
        """Up to 1,000 rows, as they are. Sending the same rows again changes nothing."""
        from mlflow.entities import Metric

        metrics = [Metric(row.key, _storable(row.value), row.timestamp_ms, row.step) for row in rows]
        self._client.log_batch(run_id, metrics=metrics)

    @outage_as_error
    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Sets the tags, over those of the same names.

        Raises:
            SpecError: a tag is longer than MLflow keeps.
        """
        check_limits(tags)
        self._set_tags(run_id, tags)

    @outage_as_error
    def set_links(self, run_id: str, reused: Sequence[Reused]) -> None:
        """Has a sweep's run name exactly these runs of other sweeps."""
        wanted, superfluous = link_tags(reused, self._client.get_run(run_id).data.tags)
        self._set_tags(run_id, wanted)
        for key in superfluous:
            self._client.delete_tag(run_id, key)

    @outage_as_error
    def finish(self, run_id: str, status: Ended, ended_ms: int | None = None) -> None:
        """Ends a run. A trial that is FINISHED is so in every sweep that has it; one that was stopped, in its own."""
        self._client.set_terminated(run_id, status=status, end_time=ended_ms)
        self._logged.pop(run_id, None)
        self._ended.append(run_id)
        tags = self._client.get_run(run_id).data.tags
        if status == "FINISHED" and names.TRAINING_ID_TAG in tags:
            listed = f"tags.`{names.TRIAL_TAG}{tags[names.TRAINING_ID_TAG]}`"
            condition = f"{listed} != '{run_id}' and tags.`{names.MEASURES_TAG}` = '{tags[names.MEASURES_TAG]}'"
            if names.STOPPED_AT_TAG in tags:
                condition += f" and tags.`{names.SWEEP_ID_TAG}` = '{tags[names.SWEEP_ID_TAG]}'"
            for sweep in search_runs(self._client, sweep_experiments(self._client), condition):
                self._client.set_tag(sweep.info.run_id, f"{names.TRIAL_TAG}{tags[names.TRAINING_ID_TAG]}", run_id)

    @outage_as_error
    @artifact_store()
    def log_file(self, run_id: str, path: str | Path, artifact_path: str | None = None) -> None:
        """Copies the file into folder `artifact_path` of the run's artifacts, over one of its name."""
        self._client.log_artifact(run_id, str(path), artifact_path)

    @outage_as_error
    @artifact_store()
    def log_text(self, run_id: str, text: str, path: str) -> None:
        """Writes the text as an artifact of the run, over one of its path."""
        self._client.log_text(run_id, text, path)

    @outage_as_error
    def reconcile(self, sweep_id: str, training_ids: Collection[str] | None = None) -> list[str]:
        """Sets KILLED what a dead coordinator of this sweep left RUNNING, and returns those run ids.

        Args:
            training_ids: trials that the caller knows nobody else to run; only runs of these are settled. All, and the
                sweep's own run, if this is None.
        """
        stale = [
            run.info.run_id
            for run in search_runs(
                self._client,
                sweep_experiments(self._client),
                f"tags.`{names.SWEEP_ID_TAG}` = '{sweep_id}' and attributes.status = 'RUNNING'",
            )
            if (training_ids is None or run.data.tags.get(names.TRAINING_ID_TAG) in training_ids)
        ]
        for run_id in stale:
            self._client.set_terminated(run_id, status="KILLED")
        return stale

    def ended(self) -> list[str]:
        """Ids of the runs that were ended since the last call."""
        found, self._ended = self._ended, []
        return found

    def recover(self) -> None:
        """Nothing is ever left: this writer writes at once."""

    def flush(self, patience_s: float | None = None) -> None:
        """Nothing ever waits, see `recover`."""

    def _experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            location = f"{self._artifact_root.rstrip('/')}/{name}" if self._artifact_root else None
            return self._client.create_experiment(name, location, {names.EXPERIMENT_TAG: "1"})
        if experiment.lifecycle_stage != "active":
            raise SpecError(
                f"experiment {name!r} was deleted in MLflow: restore it "
                f"(`mlflow experiments restore -x {experiment.experiment_id}`) or rename the sweep",
                "name",
            )
        self._client.set_experiment_tag(experiment.experiment_id, names.EXPERIMENT_TAG, "1")
        return str(experiment.experiment_id)

    def _search(self, experiment_id: str, condition: str) -> list[Run]:
        """Newest first."""
        return search_runs(self._client, [experiment_id], condition)

    def _new_run(self, experiment_id: str, name: str, tags: Mapping[str, str], started_ms: int | None = None) -> str:
        run = self._client.create_run(experiment_id, start_time=started_ms, tags=dict(tags), run_name=name)
        return str(run.info.run_id)

    def _set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        new = [RunTag(key, value) for key, value in tags.items()]
        for start in range(0, len(new), TAGS_PER_BATCH):
            self._client.log_batch(run_id, tags=new[start : start + TAGS_PER_BATCH])

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        new = [Param(key, value) for key, value in params.items()]
        for start in range(0, len(new), PARAMS_PER_BATCH):
            self._client.log_batch(run_id, params=new[start : start + PARAMS_PER_BATCH])


def unseen(rows: Sequence[MetricRow], logged: Collection[tuple[str, int]]) -> list[MetricRow]:
    """The first row of each (key, step) that is not in `logged`."""
    new: dict[tuple[str, int], MetricRow] = {}
    for row in rows:
        if (row.key, row.step) not in logged:
            new.setdefault((row.key, row.step), row)
    return list(new.values())


def _storable(value: float) -> float:
    return math.copysign(LARGEST, value) if math.isinf(value) else float(value)
