"""The scheduler of one sweep as its coordinator runs it: what trials have shown before, and what verdicts do to them.

Nothing of it is stored. It is rebuilt at every start: accuracies at rungs from MLflow, and that a trial was promoted
from its rows beyond the rung.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dft_sweeps.orchestration.evaluation_metrics import deciding_accuracy
from dft_sweeps.orchestration.evaluations import Evaluated
from dft_sweeps.orchestration.halving import Contender, Halving, Phase
from dft_sweeps.orchestration.mailbox import AN_ENGINE
from dft_sweeps.orchestration.prepare import PreparedSweep
from dft_sweeps.orchestration.trial_files import TrialFiles
from dft_sweeps.orchestration.trial_runs import TrialRuns
from dft_sweeps.orchestration.trial_state import TrialState
from dft_sweeps.spec.rungs import deciding_sampling, group_of, rungs_of
from dft_sweeps.spec.scheduler_models import AshaScheduler

if TYPE_CHECKING:
    from ray.actor import ActorHandle

_TELL_AGAIN_S = 2.0


class Schedule:
    def __init__(self, prepared: PreparedSweep, runs: TrialRuns, mine: Collection[str], storage: Path) -> None:
        """`mine` are the training ids of the trials to run. What the others have shown counts; what these have, as long
        as their files are there. Of those that `mine` compete with, all others have ended: the callers see to that
        (`dft_sweeps.orchestration.sharing`, `dft_sweeps.cli.rerun`)."""
        self._prepared = prepared
        scheduler = prepared.sweep.spec.scheduler
        self._asha = scheduler if isinstance(scheduler, AshaScheduler) else None
        self._rungs = rungs_of(scheduler)
        ids = [trial.training_id for trial in prepared.trials]
        known = [id_ for id_ in ids if id_ not in mine or TrialFiles(storage, id_).directory.exists()]
        values: dict[str, dict[int, float]] = {}
        trained: dict[str, int] = {}
        failed: set[str] = set()
        if self._asha:
            self._sampling = deciding_sampling(self._asha, prepared.evaluation)
            values, trained = runs.accuracies(known, self._sampling), runs.trained_steps(known)
            failed = runs.failed([id_ for id_ in known if id_ not in mine])
        contenders = [
            Contender(
                trial.training_id,
                trial.facts.steps,
                group_of(prepared.sweep.spec, trial.trial),
                level=sum(rung < trained.get(trial.training_id, 0) for rung in self._rungs),
                phase=_phase(trial.training_id, mine, failed),
                values=values.get(trial.training_id, {}),
            )
            for trial in prepared.trials
        ]
        self.halving = Halving(contenders, self._rungs, self._asha.reduction_factor if self._asha else 1.0)
        self._told: tuple[frozenset[str], ...] = ()
        self._told_at = 0.0

    def job_done(self, state: TrialState, whole: bool = False) -> None:
        """A trial is where its job was to lead, or earlier attempts had come so far or, a `whole` one, to its end."""
        state.up = state.measured = False
        phase = self.halving.arrived(state.prepared.training_id, whole)
        state.trained = state.trained or phase is Phase.TRAINED or state.error is not None

    def evaluated(self, evaluated: Evaluated) -> None:
        """A checkpoint was evaluated without an error."""
        if evaluated.step in self._rungs:
            results = evaluated.results[self._sampling]
            accuracy = deciding_accuracy(results, self._prepared.evaluation.selection_share)
            self.halving.observe(evaluated.training_id, evaluated.step, accuracy)

    def settle(self, states: Iterable[TrialState]) -> None:
        """Ends the training of the trials that have failed, and of those that are stopped."""
        by_id = {state.prepared.training_id: state for state in states}
        for training_id, state in by_id.items():
            if state.trained and state.error and not state.out:
                self.halving.failed(training_id)
                state.out = True
            elif state.error and not state.out:
                state.trained = state.out = self.halving.withdraw(training_id)
        for training_id, rung in self.halving.stop().items():
            by_id[training_id].stopped_at, by_id[training_id].trained = rung, True

    def under_way(self, states: Iterable[TrialState]) -> list[TrialState]:
        """Those of whose jobs Tune has one, with a slot for it."""
        started = self.halving.started()
        return [state for state in states if state.prepared.training_id in started]

    def tell(self, mailbox: ActorHandle, states: Iterable[TrialState], engine_lacks: bool) -> None:
        """Lets the workers know whether there are jobs for them, and what may lack the room that they take; now and
        then again, for the mailbox forgets a job that is handed over, and whoever it kept one for may have died."""
        unplaced = {state.prepared.training_id for state in self.under_way(states) if not state.up}
        unplaced |= {AN_ENGINE} if engine_lacks else set()
        told = self.halving.ready(), self.halving.untrained(), frozenset(unplaced)
        if told != self._told or time.monotonic() - self._told_at >= _TELL_AGAIN_S:
            mailbox.expect.remote(*told)
            self._told, self._told_at = told, time.monotonic()


def _phase(training_id: str, mine: Collection[str], failed: Collection[str]) -> Phase:
    """In which a trial begins. One of an earlier round that failed competes no more, as it did then."""
    if training_id in mine:
        return Phase.QUEUED
    return Phase.FAILED if training_id in failed else Phase.TRAINED
