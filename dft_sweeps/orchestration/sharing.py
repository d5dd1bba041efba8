"""Sweeps that want the same trials at once, and one sweep run from several shells: every trial is run once.

A process runs the trials that no other runs, then waits for those that others run, and takes what they recorded. A
trial is free again when it has ended, or when its process has, however that ended; if it is not finished then, who
waits takes it up from its checkpoints. Trials that compete with each other at a scheduler's rungs are run by one
process at a time: it takes all of them that are not finished, or none, for verdicts among a part would be wrong and
stand. Nobody holds a trial while waiting for another, so nobody waits for ever.
Services are started for what is run, and are not kept while waiting; between the rounds of a search they are.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from dft_sweeps.data.durable import NO_MORE_WRITES
from dft_sweeps.orchestration.cluster import ClusterUnavailable
from dft_sweeps.orchestration.coordinator import Coordinator, Outcome
from dft_sweeps.orchestration.engines import EnginePool
from dft_sweeps.orchestration.interrupts import heed_interrupts, uninterrupted
from dft_sweeps.orchestration.locks import SweepLocks, file_lock
from dft_sweeps.orchestration.prepare import PreparedSweep
from dft_sweeps.orchestration.spending import limits
from dft_sweeps.orchestration.trial_files import TrialFiles
from dft_sweeps.orchestration.trial_runs import ROUND_PATIENCE_S, TrialRuns
from dft_sweeps.tracking.store import TrackingUnavailable
from dft_sweeps.tracking.writer import Ended

POLL_S = 1.0
REMIND_S = 300.0
MOST_NAMED = 5

Services = Callable[[], contextlib.AbstractContextManager[tuple[EnginePool, int]]]
"""Ray and the evaluation pool, for a block's duration, and how many trials fit beside the pool."""
More = Callable[[PreparedSweep], PreparedSweep | None]
"""The sweep with further trials, once all those it has have ended; None where there are none."""


def run_missing(
    prepared: PreparedSweep,
    runs: TrialRuns,
    storage: Path,
    say: Callable[[str, str], None],
    services: Services,
    only: Collection[str] | None = None,
    fresh: bool = False,
    more: More = lambda prepared: None,
) -> Outcome:
    """Runs the trials of a sweep that are not finished, or waits for those that another process runs.

    Args:
        only: training ids of the trials wanted; all if this is None.
        fresh: run finished ones again, from step 0 and in new runs. What another process finishes meanwhile counts.
        more: proposes further trials; of processes that run one sweep, one does so at a time.

    Raises:
        ClusterUnavailable, PoolError, TrackingUnavailable: a service has gone.
        StorageUnavailable: the storage is full, read-only or broken.
    """
    heed_interrupts()
    with _storage_errors(storage), SweepLocks(storage, prepared.sweep_id) as locks:
        sweep = _SharedSweep(prepared, runs, storage, say, locks, fresh)
        status: Ended = "KILLED"
        try:
            outcome = sweep.run(services, only, more)
            status = "FAILED" if outcome.failed else "FINISHED"
            return outcome
        finally:
            with uninterrupted():
                sweep.close(status)


class StorageUnavailable(ClusterUnavailable):
    """The sweep's storage takes no more writes."""


@contextlib.contextmanager
def _storage_errors(storage: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NO_MORE_WRITES:
            raise
        raise StorageUnavailable(
            f"{storage} takes no more writes: {error}; once it does, the same command takes the sweep up again"
        ) from error


class _SharedSweep:
    def __init__(
        self,
        prepared: PreparedSweep,
        runs: TrialRuns,
        storage: Path,
        say: Callable[[str, str], None],
        locks: SweepLocks,
        fresh: bool,
    ) -> None:
        self._prepared, self._runs, self._storage, self._say = prepared, runs, storage, say
        self._locks, self._fresh = locks, fresh
        self._before = dict(runs.finished) if fresh else {}
        self._ids = [trial.training_id for trial in prepared.trials]
        self._begun = False
        self._engines = contextlib.ExitStack()
        self._serving: tuple[EnginePool, int] | None = None
        self._told: tuple[set[str], float] = set(), 0.0

    def run(self, services: Services, only: Collection[str] | None, more: More) -> Outcome:
        with self._engines:
            outcome = self._run(services, [id_ for id_ in self._ids if only is None or id_ in only])
            while new := self._next_round(more):
                last = self._run(services, new)
                outcome = Outcome(
                    outcome.finished + last.finished, outcome.reused + last.reused, outcome.failed | last.failed
                )
        return outcome

    def _next_round(self, more: More) -> list[str]:
        """As `_take_in`, which needs MLflow at every moment of it; waits where it does not answer."""
        began, told = time.monotonic(), False
        while True:
            try:
                return self._take_in(more)
            except TrackingUnavailable as error:
                if time.monotonic() - began > ROUND_PATIENCE_S:
                    raise
                self._leave_engines()
                if not told:
                    self._say("tracking", f"{error}; waiting for up to {ROUND_PATIENCE_S / 60:.0f} minutes")
                told = True
            time.sleep(POLL_S)

    def _take_in(self, more: More) -> list[str]:
        """Training ids of the trials that the sweep has now beside those that have ended. They are listed in MLflow
        before another process may propose any."""
        spent = [limit for limit in limits(self._prepared.sweep.spec, self._runs.used) if limit.exceeded]
        with file_lock(self._storage / "locks" / f"{self._prepared.sweep_id}.proposals.lock"):
            found = None if spent else more(self._prepared)
            if found is None:
                return []
            with self._locks.taking():
                self._runs.take_in(found)
            known, self._prepared = set(self._ids), found
            self._ids = [trial.training_id for trial in found.trials]
        new = [id_ for id_ in self._ids if id_ not in known]
        left = f"; {found.sweep.to_propose} are to be proposed" if found.sweep.to_propose else ""
        self._say("sweep", f"{len(new)} trials more, {len(self._ids)} of {found.planned}{left}")
        return new

    def _run(self, services: Services, pending: list[str]) -> Outcome:
        wanted, finished, reused, failed = len(pending), 0, 0, dict[str, str]()
        first = True
        while pending:
            with self._locks.taking():
                mine = self._locks.take(pending)
                held, groups = set(pending) - mine, self._prepared.competing
                rivals = {id_ for id_ in mine if groups and groups[id_] in {groups[other] for other in held}}
                self._locks.release(rivals)
                mine -= rivals
            if first or mine:
                self._runs.refresh()  # what is ours now, nobody else writes any more
                done = {id_ for id_ in pending if self._is_done(id_)}
                self._locks.release(done & mine)
                pending, mine, reused = [id_ for id_ in pending if id_ not in done], mine - done, reused + len(done)
            if first and reused:
                self._say("sweep", f"{reused} of {wanted} trials are finished already")
            first = False
            if mine:
                outcome = self._run_mine(services, mine)
                pending = [id_ for id_ in pending if id_ not in mine]
                finished, failed = finished + outcome.finished, failed | outcome.failed
            elif pending:
                self._wait(held & set(pending))
        self._begin()
        return Outcome(finished, reused, failed)

    def _is_done(self, training_id: str) -> bool:
        run_id = self._runs.finished.get(training_id)
        return run_id is not None and run_id != self._before.get(training_id)

    def _run_mine(self, services: Services, mine: set[str]) -> Outcome:
        if self._serving is None:
            self._serving = self._engines.enter_context(services())
        self._begin()
        self._runs.settle(mine)
        if self._fresh:
            for training_id in mine:
                self._clear(training_id)
        coordinator = Coordinator(
            self._prepared, self._runs, self._storage, self._say, mine, lambda id_: self._locks.release([id_])
        )
        outcome = coordinator.run(*self._serving)
        self._locks.release_all()  # of trials that were stopped
        return outcome

    def _clear(self, training_id: str) -> None:
        """Removes what earlier attempts left on the storage. What a process of theirs may still write alone is no
        state that can be taken up."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(TrialFiles(self._storage, training_id).directory)

    def _begin(self) -> None:
        """Opens the sweep's run in MLflow, at the latest moment: what cannot start leaves no trace there."""
        if self._begun:
            return
        with self._locks.taking():
            self._locks.join()
            self._runs.begin(self._locks.unheld(self._ids))
            self._begun = True

    def close(self, status: Ended) -> None:
        if not self._begun:
            return
        with self._locks.taking():
            last = self._locks.leave()
            if last:
                self._runs.settle(self._locks.unheld(self._ids))
            self._runs.close(status, last)

    def _leave_engines(self) -> None:
        self._engines.close()
        self._serving = None

    def _wait(self, held: set[str]) -> None:
        """Says for whom, where that is news, and lets a moment pass. They may need what the engines hold."""
        self._leave_engines()
        self._begin()
        told, at = self._told
        if held - told or time.monotonic() - at > REMIND_S:
            for line in _waits([id_ for id_ in self._ids if id_ in held], self._locks):
                self._say("sweep", line)
            self._told = held, time.monotonic()
        time.sleep(POLL_S)


def _waits(held: Iterable[str], locks: SweepLocks) -> list[str]:
    by_holder = defaultdict(list)
    for training_id in held:
        by_holder[locks.holder(training_id)].append(training_id)
    lines = []
    for holder, ids in by_holder.items():
        more = f" and {len(ids) - MOST_NAMED} more" if len(ids) > MOST_NAMED else ""
        named = ", ".join(ids[:MOST_NAMED]) + more
        lines.append(f"waiting for trial{'s' if len(ids) > 1 else ''} {named}, which {holder} runs")
    return lines
