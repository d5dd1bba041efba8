"""Faults for the real command: when they strike, drawn from a logged seed, and what must hold after them."""

from __future__ import annotations

import contextlib
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from mlflow import MlflowClient

from dft_sweeps.tracking.reader import Reader
from tests.end_to_end.running import SPEC, Finished, marked, run
from tests.orchestration.real_trials import TIMES_AND_MEMORY

DRAWS = range(int(os.environ.get("DFT_SWEEPS_FAULT_DRAWS", "1")))
SEED = os.environ.get("DFT_SWEEPS_FAULT_SEED") or str(random.SystemRandom().randrange(10**6))
LONGER = (
    "--set", "trial.train.steps=12", "--set", "trial.evaluation.every=4", "--set", "execution.save_every_s=0",
)  # fmt: skip
CHECKPOINTS = 6
"""That the two trials write, the base model's aside."""
GENERATIONS = CHECKPOINTS + 1
"""Sets of weights."""
Points = dict[tuple[str, str], list[tuple[int, float]]]


def dice(fault: str, draw: int) -> random.Random:
    """The draw's own random numbers: `DFT_SWEEPS_FAULT_SEED` repeats them."""
    print(f"{fault}: DFT_SWEEPS_FAULT_SEED={SEED}, draw {draw}")
    return random.Random(f"{SEED}/{fault}/{draw}")


def sweep(storage: Path, *more: str, strike: Strike | None = None, **options: object) -> Finished:
    """The command on this storage, disturbed if there is a strike."""
    disturbance = {"when": strike.due, "do": strike.strike} if strike else {}
    finished = run("run", str(SPEC), *LONGER, "--storage", str(storage), *more, **disturbance, **options)
    if strike:
        assert strike.at, f"the fault never struck:\n{finished.text}"
    return finished


@dataclass
class Strike:
    """Does `do` to the run, whose pid and mark it takes, `delay_s` or more after `when` has come to hold, while it
    does."""

    when: Callable[[], bool]
    do: Callable[[int, str], object]
    delay_s: float = 0.0
    at: float = 0.0
    """Seconds from the command's start."""

    def due(self) -> bool:
        return self.when()

    def strike(self, pid: int, mark: str) -> None:
        if self.delay_s:
            time.sleep(self.delay_s)
            while not self.when():
                time.sleep(0.002)
        self.at = time.time() - psutil.Process(pid).create_time()
        self.do(pid, mark)

    def recovered_s(self, finished: Finished, told: str, sign: str) -> float:
        """From the strike to the first line with `sign` after the one that tells of it."""
        stamped = [(int(found[1]), line) for line in finished.lines if (found := re.match(r"\[ *(\d+) s\]", line))]
        since = next(n for n, (at, line) in enumerate(stamped) if at >= self.at - 2 and re.search(told, line))
        return next(at for at, line in stamped[since:] if re.search(sign, line)) - self.at


def kill_a(kind: str) -> Callable[[int, str], None]:
    """kill -9 of the run's process with this in its title; waits until there is one."""

    def kill(pid: int, mark: str) -> None:
        while psutil.pid_exists(pid):
            for process in marked(mark):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if kind in " ".join(process.cmdline()):
                        return process.kill()

    return kill


@dataclass
class Generating:
    """Holds while the run's engine works (weights' lock is held), from the `count`-th set of weights on."""

    storage: Path
    count: int
    seen: set[str] = field(default_factory=set)

    def __call__(self) -> bool:
        held = {line.split()[-3].rpartition(":")[2] for line in Path("/proc/locks").read_text().splitlines()}
        locks = self.storage.glob(f"locks/{'[0-9a-f]' * 64}.lock")
        now = {lock.name for lock in locks if str(lock.stat().st_ino) in held}
        self.seen |= now
        return bool(now) and len(self.seen) >= self.count


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
