"""Faults for the real command: when they strike, drawn from a logged seed, and what must hold after them."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from mlflow import MlflowClient

from dft_sweeps.tracking.reader import Reader
from tests.end_to_end.running import SPEC, Find, Finished, at, locked, nothing, of_kind, run, standing_still, trainers
from tests.orchestration.real_trials import TIMES_AND_MEMORY

DRAWS = range(int(os.environ.get("DFT_SWEEPS_FAULT_DRAWS", "1")))
SEED = os.environ.get("DFT_SWEEPS_FAULT_SEED") or str(random.SystemRandom().randrange(10**6))
LONGER = (
    "--set", "trial.train.steps=12", "--set", "trial.evaluation.every=4", "--set", "execution.save_every_s=0",
)  # fmt: skip
ANSWERED_S = 2.0
"""After which whoever had an answer of an engine already has made use of it."""
ATTEMPT_FAILED, EVALUATED = r"step (\d+): attempt 1 failed", r"step {} .*\(swap"
WORK_S = (0.05, 0.2)
"""Of an engine for a set of weights (CPU seconds): more than a lease takes, less than a swap and a generation."""
WEIGHTS_LOCKS = f"locks/{'[0-9a-f]' * 64}.lock"
"""In the storage: files that a run locks while it generates with a set of weights."""
Points = dict[tuple[str, str], list[tuple[int, float]]]


def dice(fault: str, draw: int) -> random.Random:
    """The draw's own random numbers: `DFT_SWEEPS_FAULT_SEED` repeats them."""
    print(f"{fault}: DFT_SWEEPS_FAULT_SEED={SEED}, draw {draw}")
    return random.Random(f"{SEED}/{fault}/{draw}")


def sweep(storage: Path, *more: str, strike: Fault | None = None, **options: object) -> Finished:
    """The command on this storage, disturbed if there is a strike."""
    disturb = at(strike.due, strike.strike, strike.still) if strike else None
    finished = run("run", str(SPEC), *LONGER, "--storage", str(storage), *more, disturb=disturb, **options)
    if strike:
        assert strike.at, f"the fault never struck:\n{finished.text}"
    return finished


@dataclass
class Fault:
    at: float = field(default=0.0, init=False)
    """When it struck, on the monotonic clock."""
    still: Find = field(default=trainers, kw_only=True)
    """What stands still meanwhile, so that the time is still right."""

    def due(self) -> bool:
        """Whether it is time to strike."""
        raise NotImplementedError

    def strike(self, pid: int, mark: str) -> None:
        """Strikes the run of this pid and mark."""
        raise NotImplementedError

    def recovered_s(self, finished: Finished, told: str, sign: str) -> float:
        """From the strike to the first line with `sign` after the one that tells of it, whose groups are put in."""
        at, found = finished.first(told, self.at)
        return finished.first(sign.format(*found.groups()), at)[0] - self.at


@dataclass
class Strike(Fault):
    """Does `do` to the run while `when` holds."""

    when: Callable[[], bool]
    do: Callable[[int, str], object]

    def due(self) -> bool:
        return self.when()

    def strike(self, pid: int, mark: str) -> None:
        self.at = time.monotonic()
        self.do(pid, mark)


def kill_a(kind: str) -> Callable[[int, str], None]:
    """kill -9 of the run's process with this in its title."""

    def kill(pid: int, mark: str) -> None:
        of_kind(mark, kind)[0].kill()

    return kill


@dataclass
class AtWork(Fault):
    """kill -9 of the `victim` once the run's engine has computed for `work_s` (CPU seconds) for one set of weights, the
    `count`-th or a later one, and while the run waits for it: it stands still while that is looked at."""

    storage: Path
    count: int
    work_s: float
    victim: str
    still: Find = field(default=nothing, kw_only=True)

    def due(self) -> bool:
        return bool(self._weights())

    def strike(self, pid: int, mark: str) -> None:
        [engine] = of_kind(mark, "ray::EngineActor")
        weights, before = "", 0.0
        while psutil.pid_exists(pid):
            if weights != (now := self._weights()):
                weights, before = now, _cpu_s(engine)
            if weights and _cpu_s(engine) - before >= self.work_s:
                with standing_still([engine]):
                    time.sleep(ANSWERED_S)
                    if self._weights() == weights:
                        self.at = time.monotonic()
                        return kill_a(self.victim)(pid, mark)
            time.sleep(0.002)

    def _weights(self) -> str:
        """The file that the run locks while these are generated with."""
        locks = [*self.storage.glob(WEIGHTS_LOCKS)]
        now = locked(locks)
        return now[0].name if now and len(locks) >= self.count else ""


def taken_up(again: Finished) -> str:
    """How long the next command took to go on, in words."""
    return f"the same command is at work after {again.seconds_to(r's] (train|evaluate) '):.1f} s"


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def points(uri: str) -> Points:
    """Every point of the sweep's finished trials, doubled ones included; a trial is finished once."""
    client, parent = MlflowClient(uri), Reader(uri).find_sweep("end-to-end")
    runs = client.search_runs(
        [parent.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}' and attributes.status = 'FINISHED'"
    )
    ids = [run.data.params["train.objective.kind"] for run in runs]
    assert sorted(ids) == ["dft", "sft"]
    return {
        (id_, key): sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, key))
        for id_, run in zip(ids, runs, strict=True)
        for key in run.data.metrics
        if key not in TIMES_AND_MEMORY
    }


def running(uri: str) -> list[str]:
    """Runs that MLflow believes to be under way."""
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return [run.info.run_name for run in client.search_runs(experiments, "attributes.status = 'RUNNING'")]


def database(storage: Path) -> str:
    return f"sqlite:///{storage / 'mlflow.db'}"


def require_whole(finished: Finished, uri: str, reference: Points | None = None) -> Points:
    """The sweep has ended well, with the curves of the undisturbed one, and nothing of it is left."""
    assert finished.code == 0, finished.text
    assert "Traceback" not in finished.text
    assert finished.left == []
    found = points(uri)
    assert reference is None or found == reference
    assert running(uri) == []
    return found
