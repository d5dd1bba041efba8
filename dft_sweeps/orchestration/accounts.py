"""What the coordinator's events say of speed and of what the sweep uses: measured for later plans, held to the budget.

Both stand in MLflow: a trial's speed in a tag of its run, what each process has used of a sweep in tags of the sweep's
run. A coordinator that is killed forgets what it used since it last wrote that down. Processes that run one sweep at
once learn what the others have used when they take further trials, not in between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from dft_sweeps.orchestration.evaluations import Evaluated
from dft_sweeps.orchestration.mailbox import Event, StepRows, TrialStarted
from dft_sweeps.orchestration.prepare import PreparedSweep
from dft_sweeps.orchestration.spending import Spending
from dft_sweeps.orchestration.trial_runs import TrialRuns
from dft_sweeps.orchestration.trial_speed import TrialSpeed
from dft_sweeps.orchestration.trial_state import TrialState


class Accounts:
    """Of one coordinator, from when the engines are up."""

    def __init__(self, prepared: PreparedSweep, runs: TrialRuns, say: Callable[[str, str], None]) -> None:
        self._prepared, self._runs, self._say = prepared, runs, say
        self.concurrent = 1
        """Trials at a time."""
        self._speeds = {trial.training_id: TrialSpeed(prepared, trial) for trial in prepared.trials}
        self._spending: Spending | None = None

    def heard(self, event: Event) -> None:
        speed = self._speeds[event.training_id]
        if isinstance(event, TrialStarted):
            speed.started(event)
        elif isinstance(event, StepRows):
            speed.stepped(event.rows)

    def evaluated(self, evaluated: Evaluated) -> None:
        self._speeds[evaluated.training_id].evaluated(evaluated)

    def settle(self, training_id: str) -> None:
        """Writes down what was measured, while its run is open."""
        measured = self._speeds[training_id].measured
        if measured is not None:
            self._runs.tag_measured(training_id, measured)

    def afford(self, running: Collection[TrialState], leased: int) -> bool:
        """Counts what these trials, which have not ended, and engines hold from now on: those that are leased or, where
        that is more, one for each checkpoint that waits. False once the budget is used up: they are
        then failed with that as their reason; what they have on storage stays."""
        if self._spending is None:
            self._spending = Spending(self._prepared.sweep.spec, self._runs.used)
        spec = self._prepared.sweep.spec
        waiting = sum(len(state.outstanding) for state in running)
        engines = min(max(waiting, leased, spec.pool.replicas), spec.pool.max_replicas or spec.pool.replicas)
        self._spending.holds(min(self.concurrent, sum(not state.trained for state in running)), engines)
        if exhausted := self._spending.exhausted:
            self._say("sweep", exhausted)
            for state in running:
                state.error = state.error or exhausted
        elif self._spending.to_record():
            self.close()
        return not exhausted

    def close(self) -> None:
        """Writes down what was used."""
        if self._spending is not None:
            self._runs.record_hours(self._spending.used)
