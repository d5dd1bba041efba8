"""Writes sweeps, trials and their measurements to MLflow. One process, and one thread of it, writes a sweep.

Every method can be repeated: opening finds what is there, and a row already logged is left alone, so a
coordinator that died and replays never doubles a point. A dead coordinator leaves its runs in RUNNING;
`reconcile` settles them. A parent run becomes visible to readers (by its tag) only after its artifacts are
written.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking import names
from dft_sweeps.tracking.params import check_limits
from dft_sweeps.tracking.store import connect, outage_as_error

if TYPE_CHECKING:
    from mlflow.entities import Run

METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100
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
        self._artifact_root = artifact_root
        self._logged: dict[str, set[tuple[str, int]]] = {}

    @outage_as_error
    def open_sweep(
        self, name: str, sweep_id: str, spec_text: str, trials: Sequence[Mapping[str, Any]], measures: str
    ) -> str:
        """The parent run of a sweep, set RUNNING: that of this `sweep_id` in experiment `name`, or a new one.

        Args:
            trials: per trial ``training_id``, ``name`` and ``axes`` (dotted path, or ``variant``, to value).
            measures: hash of what the sweep's points mean; trials of equal measures are shared between sweeps.

        Raises:
            SpecError: the experiment was deleted in MLflow.
        """
        for trial in trials:
            assert {"training_id", "name", "axes"} <= trial.keys(), trial
        experiment_id = self._experiment(name)
        found = self._search(experiment_id, f"tags.`{names.SWEEP_ID_TAG}` = '{sweep_id}'")
        parents = [run for run in found if names.PARENT_TAG not in run.data.tags]
        run_id = parents[0].info.run_id if parents else self._new_run(experiment_id, f"{name} {sweep_id}", {})
        try:
            self._client.log_text(run_id, spec_text, names.SPEC_ARTIFACT)
            listed = [dict(trial) for trial in trials]
            self._client.log_text(run_id, json.dumps(listed, indent=1), names.TRIALS_ARTIFACT)
            self._client.set_tag(run_id, names.MEASURES_TAG, measures)
            self._client.set_tag(run_id, names.SWEEP_ID_TAG, sweep_id)
            self._client.update_run(run_id, status="RUNNING")
        except BaseException:
            self._client.set_terminated(run_id, status="FAILED")
            raise
        return run_id

    @outage_as_error
    def open_trial(
        self, parent_run_id: str, training_id: str, name: str, params: Mapping[str, str], tags: Mapping[str, str]
    ) -> str:
        """A new child run for an attempt at a trial, RUNNING. Attempts are never mixed in one run: their bits may
        differ.

        Raises:
            SpecError: a param is longer than MLflow keeps.
        """
        check_limits(params)
        parent = self._client.get_run(parent_run_id)
        own = {names.PARENT_TAG: parent_run_id, names.TRAINING_ID_TAG: training_id}
        own |= {tag: parent.data.tags[tag] for tag in (names.SWEEP_ID_TAG, names.MEASURES_TAG)}
        run_id = self._new_run(parent.info.experiment_id, name, {**own, **tags})
        self._logged[run_id] = set()
        try:
            self._log_params(run_id, params)
        except BaseException:
            self._client.set_terminated(run_id, status="FAILED")
            raise
        return run_id

    @outage_as_error
    def log(self, run_id: str, rows: Sequence[MetricRow]) -> int:
        """Logs the rows whose (key, step) the run does not have yet, and says how many that were. The run is one that
        this tracker opened.

        NaN is kept. An infinity is stored as the largest finite number of its sign, and read as infinity.
        Batches of up to 1,000 rows are atomic; the call as a whole is not, but can be repeated.
        """
        from mlflow.entities import Metric

        logged = self._logged[run_id]
        new: dict[tuple[str, int], Metric] = {}
        for row in rows:
            if (row.key, row.step) not in logged:
                metric = Metric(row.key, _storable(row.value), row.timestamp_ms, row.step)
                new.setdefault((row.key, row.step), metric)
        metrics = list(new.values())
        for start in range(0, len(metrics), METRICS_PER_BATCH):
            batch = metrics[start : start + METRICS_PER_BATCH]
            self._client.log_batch(run_id, metrics=batch)
            logged.update((metric.key, metric.step) for metric in batch)
        return len(metrics)

    @outage_as_error
    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Sets the tags, over those of the same names.

        Raises:
            SpecError: a tag is longer than MLflow keeps.
        """
        from mlflow.entities import RunTag

        check_limits(tags)
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    @outage_as_error
    def finish(self, run_id: str, status: Ended) -> None:
        self._client.set_terminated(run_id, status=status)
        self._logged.pop(run_id, None)

    @outage_as_error
    def log_file(self, run_id: str, path: str | Path, artifact_path: str | None = None) -> None:
        """Copies the file into folder `artifact_path` of the run's artifacts, over one of its name."""
        self._client.log_artifact(run_id, str(path), artifact_path)

    @outage_as_error
    def log_text(self, run_id: str, text: str, path: str) -> None:
        """Writes the text as an artifact of the run, over one of its path."""
        self._client.log_text(run_id, text, path)

    @outage_as_error
    def reconcile(self, sweep_id: str) -> list[str]:
        """Sets KILLED what a dead coordinator of this sweep left RUNNING, and returns those run ids.

        The caller knows that no coordinator of this sweep is alive.
        """
        stale = [
            run.info.run_id
            for experiment in self._client.search_experiments(filter_string=f"tags.`{names.EXPERIMENT_TAG}` = '1'")
            for run in self._search(experiment.experiment_id, f"tags.`{names.SWEEP_ID_TAG}` = '{sweep_id}'")
            if run.info.status == "RUNNING"
        ]
        for run_id in stale:
            self._client.set_terminated(run_id, status="KILLED")
        return stale

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
        existing: str = experiment.experiment_id
        return existing

    def _search(self, experiment_id: str, condition: str) -> list[Run]:
        """Newest first. Holds for the few runs of one sweep or trial, so one page does."""
        return list(self._client.search_runs([experiment_id], condition, max_results=50_000))

    def _new_run(self, experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
        run_id: str = self._client.create_run(experiment_id, tags=dict(tags), run_name=name).info.run_id
        return run_id

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        new = [Param(key, value) for key, value in params.items()]
        for start in range(0, len(new), PARAMS_PER_BATCH):
            self._client.log_batch(run_id, params=new[start : start + PARAMS_PER_BATCH])


def _storable(value: float) -> float:
    return math.copysign(LARGEST, value) if math.isinf(value) else float(value)
