"""Ray Tune runs the jobs of a sweep's trials: whenever one of its slots is free, it asks `Halving` for the next.

Tune runs in a thread of its own, so that the main thread gets Ctrl-C. Nothing of its state is ever restored: what a
sweep has done is read from MLflow and from the trials' files. Workers whose job is done keep their slot until there is
another job, or something else lacks their room (`Mailbox.freed`), for Tune keeps no more than one idle driver, and with
a driver end its workers.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from dft_sweeps.orchestration.cluster import DRIVER_MEMORY
from dft_sweeps.orchestration.halving import Halving
from dft_sweeps.orchestration.trial import TrialJob, drive_trial, failure_reason

STOP_S = 30.0
"""How long an interrupted sweep waits for Tune to stop its trials; what then is left ends with the cluster."""

WAIT_S = 0.5
"""How long Tune's thread waits for a job at a time, with nothing running."""


@dataclass(frozen=True)
class TrainingEnded:
    training_id: str
    error: str | None
    until: int | None = None
    """The end of the job that failed; None for the training as a whole."""


@dataclass(frozen=True)
class TrainingInterrupted:
    """An attempt at a job has failed, and there will be another."""

    training_id: str
    until: int | None = None


Change = TrainingEnded | TrainingInterrupted


@contextlib.contextmanager
def training(
    jobs: Sequence[TrialJob],
    mailbox: ray.actor.ActorHandle,
    concurrent: int,
    state_directory: Path,
    ended: queue.SimpleQueue[Change],
    halving: Halving,
) -> Iterator[None]:
    """Trains `jobs` as `halving` says, `concurrent` at a time, while the block runs, and puts into `ended` each that
    fails, and attempts that are tried again.

    However the block ends, Tune has stopped its trials when this returns.
    """
    if not jobs:
        yield
        return
    stopper = _Stop()
    tuner = _tuner(jobs, mailbox, concurrent, state_directory, stopper, ended, halving)
    thread = threading.Thread(target=_fit, args=(tuner, jobs, ended), name="tune", daemon=True)
    thread.start()
    try:
        yield
        if not halving.untrained():
            thread.join(STOP_S)  # the last workers end by themselves
    finally:
        stopper.wanted = True
        thread.join(STOP_S)


def _tuner(
    jobs: Sequence[TrialJob],
    mailbox: ray.actor.ActorHandle,
    concurrent: int,
    state_directory: Path,
    stopper: _Stop,
    ended: queue.SimpleQueue[Change],
    halving: Halving,
) -> tune.Tuner:
    by_id = {job.training_id: job for job in jobs}
    trainable = tune.with_parameters(drive_trial, jobs=by_id, mailbox=mailbox)
    return tune.Tuner(
        tune.with_resources(trainable, {"memory": DRIVER_MEMORY}),
        tune_config=tune.TuneConfig(
            search_alg=_Jobs(halving, stopper), num_samples=-1, max_concurrent_trials=concurrent, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            name=uuid.uuid4().hex,
            storage_path=str(state_directory),
            failure_config=tune.FailureConfig(max_failures=jobs[0].execution.max_failures),
            verbose=0,
            stop=stopper,
            callbacks=[_Ends(ended)],
        ),
    )


def _fit(tuner: tune.Tuner, jobs: Sequence[TrialJob], ended: queue.SimpleQueue[Change]) -> None:
    """Runs Tune. After it, no trial is training, whatever Tune has said of each."""
    error = None
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # else it prints the trace of every trial that fails
    try:
        tuner.fit()
    except Exception as raised:  # the main thread learns of it by the end of every trial
        error = f"Ray Tune failed: {failure_reason(raised)}"
    for job in jobs:
        ended.put(TrainingEnded(job.training_id, error))


class _InProcess:
    """Tune pickles callbacks and stoppers with its state, which is never restored here; nothing of ours is in it."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Stop(_InProcess, tune.Stopper):
    """Ends the experiment at Tune's next step once `wanted` is set."""

    wanted = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.wanted


class _Jobs(_InProcess, Searcher):
    """Gives Tune the next job of a sweep; to Tune each is a trial of its own. Called in Tune's thread."""

    def __init__(self, halving: Halving, stopper: _Stop) -> None:
        super().__init__()
        self._halving, self._stopper = halving, stopper
        self._running: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """None while there is no job. With nothing running Tune would sleep for seconds; then this waits for one."""
        while not self._halving.over and not self._stopper.wanted:
            if job := self._halving.next_job(0.0 if self._running else WAIT_S):
                self._running.add(trial_id)
                return asdict(job)
            if self._running:
                return None
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._running.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing of it is restored."""

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("nothing of a search is restored")


class _Ends(_InProcess, tune.Callback):
    """Tells the coordinator when Tune sees an attempt or a trial fail. Called in Tune's thread."""

    def __init__(self, ended: queue.SimpleQueue[Change]) -> None:
        self._ended = ended

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended.put(TrainingInterrupted(trial.config["training_id"], trial.config["until"]))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        reason = f"its driver failed; {trial.error_file} has the trace"
        self._ended.put(TrainingEnded(trial.config["training_id"], reason, trial.config["until"]))
