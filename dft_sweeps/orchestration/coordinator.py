"""The coordinator of a sweep: trials on Ray Tune, checkpoints to the evaluation pool, every number to MLflow.

It runs in the driver process and is the only writer of the sweep's MLflow runs. Its state is what MLflow and the
trials' files hold: a coordinator that died is replaced by running the sweep again, which takes up what is there.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dft_sweeps.evaluation.grading import GraderPool, grading_processes
from dft_sweeps.evaluation.store import EvaluationStore
from dft_sweeps.orchestration.accounts import Accounts
from dft_sweeps.orchestration.evaluations import AttemptFailed, EnginePool, Evaluated, Evaluations
from dft_sweeps.orchestration.interrupts import interrupts_later
from dft_sweeps.orchestration.jobs import make_job
from dft_sweeps.orchestration.mailbox import (
    Checkpoint,
    CheckpointWritten,
    Event,
    JobDone,
    NonFinite,
    StepRow,
    StepRows,
    TrialFailed,
    TrialInterrupted,
    TrialNote,
    TrialProvenance,
    TrialStarted,
    WorkersUp,
    now_ms,
    start_mailbox,
    take_events,
)
from dft_sweeps.orchestration.prepare import PreparedSweep
from dft_sweeps.orchestration.replay import Left, checkpoints_of, left_by_earlier_attempts
from dft_sweeps.orchestration.resume import is_trained
from dft_sweeps.orchestration.schedule import Schedule
from dft_sweeps.orchestration.silence import Silence
from dft_sweeps.orchestration.trial_files import TrialFiles
from dft_sweeps.orchestration.trial_runs import TrialRuns
from dft_sweeps.orchestration.trial_state import TrialState
from dft_sweeps.orchestration.tuning import Change, TrainingInterrupted, training
from dft_sweeps.tracking import names

Item = TypeVar("Item")
POLL_S = 0.5
PROGRESS_EVERY_S = 4.0


@dataclass(frozen=True)
class Outcome:
    """What a sweep did."""

    finished: int
    """Trials it finished."""
    reused: int
    """Trials that were finished before, or by another process meanwhile."""
    failed: dict[str, str]
    """Trial name to reason."""


class Coordinator:
    """Runs trials of one sweep, whose locks the caller holds (`dft_sweeps.orchestration.sharing`).

    Args:
        say: takes a topic and a line of progress.
        only: training ids of the trials to run, done or not; all that are not done if this is None.
        on_end: takes the id of each trial whose end is in MLflow.
    """

    def __init__(
        self,
        prepared: PreparedSweep,
        runs: TrialRuns,
        storage: Path,
        say: Callable[[str, str], None],
        only: Collection[str] | None = None,
        on_end: Callable[[str], None] = lambda training_id: None,
    ) -> None:
        self._prepared, self._runs, self._storage, self._say = prepared, runs, storage, say
        self._on_end, self._base = on_end, str(prepared.model.directory)
        self._states = {
            trial.training_id: TrialState(trial)
            for trial in prepared.trials
            if (trial.training_id in only if only is not None else not runs.is_complete(trial))
        }
        self._training_ended: queue.SimpleQueue[Change] = queue.SimpleQueue()
        self._accounts = Accounts(prepared, runs, say)
        self._schedule = Schedule(prepared, runs, self._states, storage)

    @property
    def done(self) -> int:
        """Trials that are finished already, with every point this sweep asks for."""
        return len(self._prepared.trials) - len(self._states)

    def run(self, pool: EnginePool, concurrent: int) -> Outcome:
        """Trains and evaluates its trials, `concurrent` at a time, between `begin` and `close` of the runs."""
        with GraderPool(grading_processes(len(os.sched_getaffinity(0)))) as graders:
            evaluations = Evaluations(
                self._prepared.benchmarks, self._prepared.prompts, EvaluationStore(self._storage), pool, graders
            )
            try:
                self._take_up(evaluations, concurrent)
            finally:
                self._accounts.close()
                evaluations.close()
        self._runs.flush()  # with what was used: who takes a trial now reads that
        self._pass_on_ends()
        failed = {state.prepared.trial.name: state.error for state in self._states.values() if state.error}
        return Outcome(len(self._states) - len(failed), self.done, failed)

    def _take_up(self, evaluations: Evaluations, concurrent: int) -> None:
        for state in self._states.values():
            left = self._left(state)
            with interrupts_later():
                self._runs.open(state.prepared)
                if left:
                    self._replay(state, *left, evaluations)
        untrained = [state for state in self._states.values() if not state.trained]
        jobs = [make_job(self._prepared, state.prepared, self._storage) for state in untrained]
        mailbox, silence = start_mailbox([job.training_id for job in jobs]), Silence(self._say)
        self._accounts.concurrent = concurrent
        halving, tune_files = self._schedule.halving, self._storage / "ray" / "tune"
        with training(jobs, mailbox, concurrent, tune_files, self._training_ended, halving):
            while running := [state for state in self._states.values() if not state.ended]:
                if not self._accounts.afford(running, evaluations.leased):
                    break
                # What had ended before this look into the mailbox has put all its events there.
                ended = _all(self._training_ended)
                events, landed = take_events(mailbox, POLL_S), _all(evaluations.landed)
                with interrupts_later():
                    self._pass(events, landed, ended, evaluations)
                if events or landed:
                    silence.broken()
                self._schedule.tell(mailbox, running, evaluations.lacking)
                silence.warn(running, evaluations.leased > 0)
                silence.warn_of_trials(self._schedule.under_way(running))

    def _pass(
        self,
        events: Sequence[Event],
        landed: Sequence[Evaluated | AttemptFailed],
        ended: Sequence[Change],
        evaluations: Evaluations,
    ) -> None:
        """Takes note of what has happened since the last pass."""
        for event in events:
            self._handle(event, evaluations)
            self._accounts.heard(event)
        for evaluated in landed:
            self._landed(evaluated)
        for change in ended:
            self._training_changed(change)
        self._schedule.settle(self._states.values())
        for state in self._states.values():
            self._settle(state)
        self._pass_on_ends()

    def _pass_on_ends(self) -> None:
        for training_id in self._runs.recorded():
            self._on_end(training_id)

    def _left(self, state: TrialState) -> tuple[Left, bool] | None:
        """What earlier attempts left of a trial up to its end, which makes it whole, or to the rung where it was
        parked. Reads its weights."""
        rung = self._schedule.halving.next_rung(state.prepared.training_id)
        for until in (None,) if rung is None else (None, rung):
            if left := left_by_earlier_attempts(self._files(state), state.prepared, self._base, until):
                return left, until is None
        return None

    def _replay(self, state: TrialState, left: Left, whole: bool, evaluations: Evaluations) -> None:
        self._runs.tag(state.prepared.training_id, left.provenance)
        self._runs.log_steps(state.prepared.training_id, left.rows)
        self._schedule.job_done(state, whole)
        for checkpoint in left.checkpoints.values():
            self._evaluate(state, checkpoint, evaluations)

    def _files(self, state: TrialState) -> TrialFiles:
        return TrialFiles(self._storage, state.prepared.training_id)

    # --- events -------------------------------------------------------------------------------------------------------

    def _handle(self, event: Event, evaluations: Evaluations) -> None:
        state = self._states[event.training_id]
        if isinstance(event, TrialStarted):
            self._started(state, event, evaluations)
        elif isinstance(event, WorkersUp):
            state.up = True
        elif isinstance(event, TrialProvenance):
            self._runs.tag(event.training_id, event.tags)
        elif isinstance(event, TrialNote):
            self._say("train", f"{state.prepared.trial.name}: {event.text}")
        elif isinstance(event, StepRows):
            state.measured = True
            self._runs.log_steps(event.training_id, list(event.rows))
            self._show_progress(state, [row for row in event.rows if is_trained(row)])
        elif isinstance(event, CheckpointWritten):
            if event.checkpoint.step in state.prepared.evaluated_steps:
                self._evaluate(state, event.checkpoint, evaluations)
        elif isinstance(event, TrialInterrupted):
            self._interrupted(state, event.reason)
        elif isinstance(event, TrialFailed):
            state.error = event.reason
        elif isinstance(event, JobDone):
            self._schedule.job_done(state)
        elif isinstance(event, NonFinite):
            self._runs.tag(event.training_id, {names.DIVERGED_AT_TAG: str(event.step)})
            self._runs.add_file(event.training_id, Path(event.record_file))

    def _started(self, state: TrialState, event: TrialStarted, evaluations: Evaluations) -> None:
        """What an attempt takes up of an earlier one becomes part of its run, so that its curves are whole."""
        name = state.prepared.trial.name
        state.begin_attempt(event)
        seconds = (event.worker_started_ms - event.driver_started_ms) / 1000
        self._say("train", f"{name}: started; its worker was up after {seconds:.0f} s")
        if event.note:
            self._say("train", f"{name}: starts from step 0 again: {event.note}")
        if self._runs.take_up(state.prepared, event.resumed_at):
            state.evaluated.clear()
            self._say("train", f"{name}: a new MLflow run, for the earlier attempt's has steps that are trained again")
        if not event.resumed_at:
            return
        self._say("train", f"{name}: resumed at step {event.resumed_at} of {state.prepared.facts.steps}")
        files = self._files(state)
        self._runs.log_steps(event.training_id, [row for row in files.rows() if row.step <= event.resumed_at])
        checkpoints = checkpoints_of(files, self._base)
        for step in state.prepared.evaluated_steps:
            if step <= event.resumed_at:
                self._evaluate(state, checkpoints[step], evaluations)

    def _interrupted(self, state: TrialState, reason: str) -> None:
        """An attempt ended before its time. Should there be another, it decides which checkpoints are still there."""
        if self._schedule.under_way([state]):  # its job may be done: then its workers' end changes nothing
            state.interruption, state.up, state.measured = reason, False, False
        self._say("train", f"{state.prepared.trial.name}: interrupted: {reason}")

    def _evaluate(self, state: TrialState, checkpoint: Checkpoint, evaluations: Evaluations) -> None:
        if checkpoint.step in state.evaluated or state.outstanding.get(checkpoint.step) == checkpoint.weights_digest:
            return  # of an attempt before this one
        state.outstanding[checkpoint.step] = checkpoint.weights_digest
        samplings = self._prepared.samplings_at(state.prepared, checkpoint.step)
        evaluations.submit(state.prepared.training_id, checkpoint, samplings)

    def _show_progress(self, state: TrialState, rows: Sequence[StepRow]) -> None:
        name = state.prepared.trial.name
        if not rows:
            return
        if rows[0].step == state.first_step:
            seconds = (rows[0].timestamp_ms - state.started_ms) / 1000
            self._say("train", f"{name}: first step {seconds:.0f} s after the trial's start")
        last = rows[-1].step == state.prepared.facts.steps
        if last or time.monotonic() - state.shown_at > PROGRESS_EVERY_S:
            state.shown_at = time.monotonic()
            self._say("train", f"{name}: {state.progress(rows[-1])}")

    def _training_changed(self, end: Change) -> None:
        state = self._states[end.training_id]
        if end.until is not None and not self._schedule.halving.trains(end.training_id, end.until):
            return  # the job was done, and its driver died later
        if isinstance(end, TrainingInterrupted):
            return None if state.interruption else self._interrupted(state, "its driver died")
        if end.error is None:
            return self._schedule.job_done(state, whole=True)
        state.trained = True
        if not state.ended:
            if state.error or state.interruption:
                self._say("train", f"{state.prepared.trial.name}: {end.error}")
            state.error = state.error or state.interruption or end.error

    def _landed(self, evaluated: Evaluated | AttemptFailed) -> None:
        if isinstance(evaluated, AttemptFailed):
            self._say("evaluate", evaluated.message)
            return
        state = self._states[evaluated.training_id]
        if state.outstanding.get(evaluated.step) != evaluated.weights_digest:
            return  # the trial was taken up again before it, and has other weights at this step by now
        del state.outstanding[evaluated.step]
        name = state.prepared.trial.name
        if evaluated.error and state.interruption:
            return  # the next attempt has it evaluated again
        if evaluated.error:
            state.error = f"step {evaluated.step}: {evaluated.error}"
            self._say("evaluate", f"{name}: step {evaluated.step} failed: {evaluated.error}")
            return
        state.evaluated.add(evaluated.step)
        self._accounts.evaluated(evaluated)
        self._schedule.evaluated(evaluated)
        summary = self._runs.log_evaluation(state.prepared, evaluated)
        state.last_accuracy = f"{summary} (step {evaluated.step})"
        took = f"in {evaluated.seconds:.1f} s (swap {evaluated.swap_seconds:.2f} s)"
        source = took if evaluated.seconds else "from the store"
        self._say("evaluate", f"{name}: step {evaluated.step}  {summary}  {source}")

    def _settle(self, state: TrialState) -> None:
        """Ends a trial once its training is over and nothing of it is outstanding, so that no point is lost."""
        if state.ended or not state.trained or state.outstanding:
            return
        missing = sorted(state.due - state.evaluated)
        if missing and not state.error:
            state.error = f"its training ended without checkpoints of the steps {missing}"
        state.ended = True
        name = state.prepared.trial.name
        self._accounts.settle(state.prepared.training_id)
        if state.stopped_at is not None and not state.error:
            self._runs.tag(state.prepared.training_id, {names.STOPPED_AT_TAG: str(state.stopped_at)})
        self._runs.finish(state.prepared.training_id, "FAILED" if state.error else "FINISHED")
        if state.error:
            self._say("trial", f"{name}: FAILED: {state.error}")
        else:
            took = f" {(now_ms() - state.started_ms) / 1000:.0f} s after its start" if state.started_ms else ""
            how = "finished" if state.stopped_at is None else f"stopped at step {state.stopped_at}"
            self._say("trial", f"{name}: {how}{took}")


def _all(waiting: queue.SimpleQueue[Item]) -> list[Item]:
    """What is in the queue now."""
    return [waiting.get() for _ in range(waiting.qsize())]
