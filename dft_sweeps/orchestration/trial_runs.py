"""The MLflow runs of a sweep's trials, as the coordinator writes them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from dft_sweeps.evaluation.grading import grader_version
from dft_sweeps.evaluation.results import macro_average
from dft_sweeps.orchestration.evaluation_metrics import evaluation_metrics, own_result, without_held_out
from dft_sweeps.orchestration.evaluations import Evaluated
from dft_sweeps.orchestration.mailbox import StepRow, now_ms
from dft_sweeps.orchestration.prepare import PreparedSweep, PreparedTrial
from dft_sweeps.spec.costs import Measurement
from dft_sweeps.spec.reckoning import NOTHING, Hours
from dft_sweeps.tracking import measurements, names, question_results
from dft_sweeps.tracking.background import Background
from dft_sweeps.tracking.params import flatten
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.writer import Ended, MetricRow, Tracker

ROUND_PATIENCE_S = 600.0
"""How long MLflow may be away between the rounds of a search."""


class TrialRuns:
    """Writes one sweep, between `begin` and `close`; whatever trial is open at `close` is set KILLED.

    With a `Background` writer MLflow may be down between the two.

    Args:
        used: what MLflow has of the hours that attempts at the sweep have used, but the one with this id.
    """

    def __init__(
        self,
        tracker: Background | Tracker,
        reader: Reader,
        prepared: PreparedSweep,
        used: Callable[[str], Hours] = lambda but: NOTHING,
    ) -> None:
        self._tracker, self._prepared = tracker, prepared
        self._used, self._attempt = used, uuid.uuid4().hex
        self._own = self._others = NOTHING
        """Hours of this process, and of all other attempts at the sweep when they were last read."""
        self._open: dict[str, str] = {}
        self._last_rows: dict[str, int] = {}
        """By training id: the highest step of which the open run has a row; -1 for none."""
        self._ending: dict[str, str] = {}
        """By id of a run whose end MLflow may not know yet: the training id."""
        self._parent = ""
        self._reader = reader
        self.finished: dict[str, str] = {}
        """Training id to the newest finished run, of any sweep, that has exactly the points this sweep asks for, or
        was stopped in this one."""
        self.refresh()

    def refresh(self) -> None:
        """Reads anew what is finished, and what other attempts have used, processes that have ended before MLflow had
        everything of theirs included."""
        self._tracker.recover()
        self._others = self._used(self._attempt)
        ids = [trial.training_id for trial in self._prepared.trials]
        self.finished = self._reader.finished_trials(ids, self._prepared.measures, self._prepared.sweep_id)

    def begin(self, nobodys: Collection[str] | None = None) -> None:
        """Opens the sweep's own run, or joins the processes that write it now.

        Args:
            nobodys: the sweep's trials that no other process runs; all of them if this is None.
        """
        self.settle(nobodys)
        self._open_sweep()
        self._link()

    def take_in(self, prepared: PreparedSweep) -> None:
        """The sweep has further trials, which MLflow lists from now on."""
        self._prepared = prepared
        self._open_sweep()
        self.refresh()

    def _open_sweep(self) -> None:
        listed = [
            {"training_id": trial.training_id, "name": trial.trial.name, "axes": trial.trial.axes}
            for trial in self._prepared.trials
        ]
        sweep = self._prepared.sweep
        self._parent = self._tracker.open_sweep(
            sweep.spec.name,
            self._prepared.sweep_id,
            sweep.resolved_yaml(),
            listed,
            self._prepared.measures,
            sweep.to_propose if sweep.probes else None,
        )

    def settle(self, nobodys: Collection[str] | None) -> None:
        """Sets KILLED what processes that are no more left RUNNING of these trials of the sweep."""
        self._tracker.reconcile(self._prepared.sweep_id, nobodys)

    def is_complete(self, trial: PreparedTrial) -> bool:
        """Whether a finished run, of any sweep, has exactly the points this sweep asks for."""
        return trial.training_id in self.finished

    def accuracies(self, training_ids: Collection[str], sampling: str) -> dict[str, dict[int, float]]:
        """Of any of these trials, what attempts so far have shown by one of the sweep's samplings: by step."""
        prefix = names.sampling_prefixes(self._prepared.evaluation.samplings)[sampling]
        return self._reader.accuracy_at(training_ids, self._prepared.measures, prefix)

    def trained_steps(self, training_ids: Collection[str]) -> dict[str, int]:
        """The last optimizer step of which MLflow has a row, of any of these trials."""
        return self._reader.trained_steps(training_ids, self._prepared.measures)

    def failed(self, training_ids: Collection[str]) -> set[str]:
        """Those of these trials whose newest attempt, in any sweep, has failed."""
        return self._reader.failed_trials(training_ids, self._prepared.measures)

    def _link(self) -> None:
        """Has the sweep's own run name those of other sweeps whose results it shows."""
        reused = self._reader.finished_elsewhere(self.finished, self._prepared.measures, self._parent)
        self._tracker.set_links(self._parent, reused)

    def open(self, trial: PreparedTrial) -> None:
        axes = {f"dft.axis.{path}": str(value) for path, value in trial.trial.axes.items()}
        self._last_rows[trial.training_id] = -1
        self._open[trial.training_id] = self._tracker.open_trial(
            self._parent,
            trial.training_id,
            trial.trial.name,
            flatten(trial.trial.spec.model_dump(mode="json")) | _resolved(trial) | self._graders(),
            axes | {measurements.MODEL_TAG: self._prepared.model.weights_digest},
        )

    def take_up(self, trial: PreparedTrial, step: int) -> bool:
        """Has an attempt go on from `step`, 0 for nothing, in the open run; in a new one, and says so, where that has
        rows of what is trained again: bits may differ, and no curve is of two trainings."""
        if self._last_rows[trial.training_id] <= (step or -1):
            return False
        self._tracker.finish(self._open[trial.training_id], "KILLED")
        self.open(trial)
        return True

    def _graders(self) -> dict[str, str]:
        benchmarks = self._prepared.benchmarks.values()
        return {names.graders_param(b.name): ", ".join(map(grader_version, b.graders)) for b in benchmarks}

    def tag(self, training_id: str, tags: Mapping[str, str]) -> None:
        self._tracker.tag(self._open[training_id], tags)

    def tag_measured(self, training_id: str, measured: Measurement) -> None:
        self.tag(training_id, {measurements.MEASURED_TAG: measured.to_json()})

    @property
    def used(self) -> Hours:
        """What all attempts at the sweep have used, as far as it is written down; others' as of the last `refresh`."""
        return Hours(*(own + others for own, others in zip(self._own, self._others, strict=True)))

    def record_hours(self, used: Hours) -> None:
        """Writes down this process's share of what all attempts have used; the others' is as of the last `refresh`."""
        self._own = Hours(*(whole - others for whole, others in zip(used, self._others, strict=True)))
        self._tracker.tag(self._parent, measurements.hours_tags(self._own, self._attempt))

    def add_file(self, training_id: str, path: Path) -> None:
        """Copies a file to the artifacts of the trial's run."""
        self._tracker.log_file(self._open[training_id], path)

    def log_steps(self, training_id: str, rows: list[StepRow]) -> None:
        self._last_rows[training_id] = max([self._last_rows[training_id], *(row.step for row in rows)])
        self._tracker.log(
            self._open[training_id],
            [MetricRow(key, row.step, value, row.timestamp_ms) for row in rows for key, value in row.metrics.items()],
        )

    def log_evaluation(self, trial: PreparedTrial, evaluated: Evaluated) -> str:
        """Logs every number of an evaluated checkpoint, and its verdicts by question; returns the averages in words."""
        now = now_ms()
        prefixes = names.sampling_prefixes(trial.trial.spec.evaluation.samplings)
        share = self._prepared.evaluation.selection_share
        metrics: dict[str, float] = {}
        words = []
        for name, results in evaluated.results.items():
            metrics |= evaluation_metrics(prefixes[name], results, share)
            average = macro_average([own_result(without_held_out(judged, share)) for judged in results])
            words.append(f"{name} {average.mean:.1%} [{average.low:.1%}, {average.high:.1%}]")
        rows = [MetricRow(key, evaluated.step, value, now) for key, value in metrics.items()]
        run_id = self._open[trial.training_id]
        self._tracker.log(run_id, rows)
        name = f"{question_results.FOLDER}/{question_results.artifact_name(evaluated.step)}"
        self._tracker.log_text(run_id, question_results.to_json(evaluated.results, share), name)
        return ", ".join(words)

    def finish(self, training_id: str, status: Ended) -> None:
        run_id = self._open[training_id]
        self._tracker.finish(run_id, status)
        del self._open[training_id]
        self._ending[run_id] = training_id

    def recorded(self) -> list[str]:
        """Training ids of the trials whose end has got into MLflow since the last call."""
        return [self._ending.pop(run_id) for run_id in self._tracker.ended() if run_id in self._ending]

    def flush(self) -> None:
        """Waits until MLflow has everything; for long where trials are still to be proposed, which needs MLflow.

        Raises:
            TrackingUnavailable: it does not answer for long. What it lacks is kept for the next run.
        """
        self._tracker.flush(ROUND_PATIENCE_S if self._prepared.sweep.to_propose else 0.0)

    def close(self, status: Ended, last: bool = True) -> None:
        """Ends whatever trial is still open as KILLED and, where no other process writes the sweep's own run, that
        too: FINISHED once all its trials are, else FAILED or KILLED.

        Raises:
            TrackingUnavailable: MLflow does not answer. The next run sends what it lacks, and ends the sweep's own run.
        """
        for training_id in list(self._open):
            self.finish(training_id, "KILLED")
        self._tracker.flush()
        self._link_all()
        if last:
            self._end_sweep(status)
            self._tracker.flush()

    def _link_all(self) -> None:
        self.refresh()
        self._link()

    def _end_sweep(self, status: Ended) -> None:
        known = all(self.is_complete(trial) for trial in self._prepared.trials)
        complete = known and not self._prepared.sweep.to_propose
        incomplete: Ended = "FAILED" if status == "FAILED" else "KILLED"
        self._tracker.finish(self._parent, "FINISHED" if complete else incomplete)


def _resolved(trial: PreparedTrial) -> dict[str, str]:
    """What the spec came to once its data was read."""
    facts = trial.facts
    return {
        "resolved.steps": str(facts.steps),
        "resolved.samples": str(facts.samples),
        "resolved.overlong": str(facts.overlong),
        "resolved.dropped": str(facts.dropped),
        "resolved.instruction": facts.instruction,
    }
