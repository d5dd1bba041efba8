"""How fast a trial and its evaluations are, measured as their events come in, for the plans of later sweeps."""

from __future__ import annotations

from collections.abc import Sequence

from dft_sweeps.orchestration.evaluation_metrics import own_result
from dft_sweeps.orchestration.evaluations import Evaluated
from dft_sweeps.orchestration.mailbox import StepRow, TrialStarted
from dft_sweeps.orchestration.prepare import PreparedSweep, PreparedTrial
from dft_sweeps.spec.costs import Measurement, engine_shape, length_key, training_shape

TOKENS = "train/tokens"


class TrialSpeed:
    """Of the present attempt at one trial. Lost with the coordinator: a later one measures what it runs itself."""

    def __init__(self, prepared: PreparedSweep, trial: PreparedTrial) -> None:
        spec = prepared.sweep.spec
        self._measured = Measurement(
            training_shape=training_shape(trial.trial.spec, spec.execution),
            engine_shape=engine_shape(spec.pool),
            objective=trial.trial.spec.train.objective.kind,
        )
        self._started: TrialStarted | None = None
        self._first: StepRow | None = None
        self._last: StepRow | None = None

    def started(self, event: TrialStarted) -> None:
        self._started, self._first, self._last = event, None, None

    def stepped(self, rows: Sequence[StepRow]) -> None:
        """Rows of this attempt, in order."""
        trained = [row for row in rows if TOKENS in row.metrics]
        if trained:
            self._first, self._last = self._first or trained[0], trained[-1]

    def _measure_training(self) -> None:
        """The first step is part of the start, for the model's first steps are slower than the rest."""
        started, first, last = self._started, self._first, self._last
        if started is None or first is None or last is None or first.step == last.step:
            return
        self._measured.workers_start_s = (started.worker_started_ms - started.driver_started_ms) / 1000
        self._measured.start_s = (first.timestamp_ms - started.worker_started_ms) / 1000
        self._measured.train_s = (last.timestamp_ms - first.timestamp_ms) / 1000
        self._measured.train_tokens = round(last.metrics[TOKENS] - first.metrics[TOKENS])

    def evaluated(self, evaluated: Evaluated) -> None:
        """A checkpoint was evaluated without an error."""
        results = [own_result(judged) for each in evaluated.results.values() for judged in each]
        for result in results:
            key = length_key(result.key.benchmark, result.key.sampling.max_new_tokens)
            tokens, completions = self._measured.lengths.get(key, (0, 0))
            asked = sum(len(question.samples) for question in result.questions)
            self._measured.lengths[key] = [tokens + result.tokens, completions + asked]
        if evaluated.seconds:
            self._measured.evaluation_s += evaluated.seconds
            self._measured.evaluation_tokens += sum(result.tokens for result in results)

    @property
    def measured(self) -> Measurement | None:
        """None where nothing was."""
        self._measure_training()
        known = self._measured.train_s or self._measured.lengths
        return self._measured if known else None
