"""The MLflow runs of a sweep's trials, as the coordinator writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dft_sweeps.evaluation.grading import grader_version
from dft_sweeps.evaluation.results import macro_average
from dft_sweeps.orchestration.evaluation_metrics import evaluation_metrics, own_result, without_held_out
from dft_sweeps.orchestration.evaluations import Evaluated
from dft_sweeps.orchestration.mailbox import StepRow, now_ms
from dft_sweeps.orchestration.prepare import PreparedSweep, PreparedTrial
from dft_sweeps.tracking import names, question_results
from dft_sweeps.tracking.params import flatten
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.writer import Ended, MetricRow, Tracker


class TrialRuns:
    """Writes one sweep, between `begin` and `close`; whatever trial is open at `close` is set KILLED."""

    def __init__(self, tracker: Tracker, reader: Reader, prepared: PreparedSweep) -> None:
        self._tracker, self._prepared = tracker, prepared
        self._open: dict[str, str] = {}
        self._parent = ""
        ids = (trial.training_id for trial in prepared.trials)
        self._finished = reader.finished_trials(ids, prepared.measures)

    def begin(self) -> None:
        """Opens the sweep's own run. The caller holds the locks of its trials, so no coordinator of it is alive."""
        listed = [
            {"training_id": trial.training_id, "name": trial.trial.name, "axes": trial.trial.axes}
            for trial in self._prepared.trials
        ]
        sweep = self._prepared.sweep
        self._tracker.reconcile(self._prepared.sweep_id)
        self._parent = self._tracker.open_sweep(
            sweep.spec.name, self._prepared.sweep_id, sweep.resolved_yaml(), listed, self._prepared.measures
        )

    def is_complete(self, trial: PreparedTrial) -> bool:
        """Whether a finished run, of any sweep, has exactly the points this sweep asks for."""
        return trial.training_id in self._finished

    def open(self, trial: PreparedTrial) -> None:
        axes = {f"dft.axis.{path}": str(value) for path, value in trial.trial.axes.items()}
        self._open[trial.training_id] = self._tracker.open_trial(
            self._parent,
            trial.training_id,
            trial.trial.name,
            flatten(trial.trial.spec.model_dump(mode="json")) | _resolved(trial) | self._graders(),
            axes,
        )

    def _graders(self) -> dict[str, str]:
        benchmarks = self._prepared.benchmarks.values()
        return {names.graders_param(b.name): ", ".join(map(grader_version, b.graders)) for b in benchmarks}

    def tag(self, training_id: str, tags: Mapping[str, str]) -> None:
        self._tracker.tag(self._open[training_id], tags)

    def add_file(self, training_id: str, path: Path) -> None:
        """Copies a file to the artifacts of the trial's run."""
        self._tracker.log_file(self._open[training_id], path)

    def log_steps(self, training_id: str, rows: list[StepRow]) -> None:
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
        self._tracker.finish(self._open[training_id], status)
        del self._open[training_id]

    def close(self, status: Ended) -> None:
        """Ends the sweep's own run, and whatever trial is still open as KILLED. All are tried before an error of one
        is raised."""
        errors: list[Exception] = []
        ends: list[tuple[str, Ended]] = [(run_id, "KILLED") for run_id in self._open.values()]
        for run_id, end in [*ends, (self._parent, status)]:
            try:
                self._tracker.finish(run_id, end)
            except Exception as error:
                errors.append(error)
        self._open.clear()
        if errors:
            raise errors[0]


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
