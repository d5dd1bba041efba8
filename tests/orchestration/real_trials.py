"""Sweeps whose trials are real (Ray Tune, Ray Train, MLflow, the embedded base policy) and whose engine is a script."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from dft_sweeps.orchestration.coordinator import Outcome
from dft_sweeps.orchestration.prepare import PreparedSweep, prepare
from dft_sweeps.orchestration.sharing import run_missing
from dft_sweeps.orchestration.trial_files import TrialFiles
from dft_sweeps.orchestration.trial_runs import TrialRuns
from dft_sweeps.spec.load import load_sweep
from dft_sweeps.tracking.measurements import used_hours
from dft_sweeps.tracking.reader import Reader, TrialRow
from dft_sweeps.tracking.writer import Tracker
from tests.end_to_end.running import do_while, title
from tests.orchestration.scripted_pool import ScriptedPool

SPEC = """\
name: real-trials
trial:
  data:
    source: {kind: arithmetic, samples: 64, wrong_steps: 0.1, seed: 3}
    max_length: 160
  train:
    objective: {kind: dft}
    learning_rate: 3e-4
    batch_size: 8
    steps: 12
    seed: 5
  evaluation:
    benchmarks:
      - {name: arithmetic_1, limit: 2}
    every: 4
    histogram: {samples: 4, edges: [0, 0.01, 0.5, 1]}
    samplings:
      sampled: {max_new_tokens: 8}
execution: {micro_batch_tokens: 256, pack_length: 256, save_every_s: 0}
pool: {max_model_len: 256}
"""
TIMES_AND_MEMORY = ("train/tokens_per_second", "train/peak_memory_gib")


@dataclass
class Swept:
    prepared: PreparedSweep
    storage: Path
    outcome: Outcome
    lines: list[str]
    swaps: list[str]
    """Directories whose weights the engine was given."""
    times: list[float]
    """When each line came, on the monotonic clock."""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def reader(self) -> Reader:
        return Reader(f"sqlite:///{self.storage}/mlflow.db")

    @property
    def trials(self) -> list[TrialRow]:
        return self.reader.trials(self.reader.find_sweep(self.prepared.sweep_id))

    def curves(self, trial: int = 0) -> dict[str, list[tuple[int, float]]]:
        """Every curve of a trial but those that no computation determines."""
        row = self.trials[trial]
        assert row.run_id is not None
        return {key: self.reader.curve(row.run_id, key) for key in row.metrics if key not in TIMES_AND_MEMORY}

    def files(self, trial: int = 0) -> TrialFiles:
        return TrialFiles(self.storage, self.prepared.trials[trial].training_id)


@dataclass
class Disturbance:
    """Waits in a thread of its own until `when` holds for the storage, and calls `do` once while training stands
    still."""

    when: Callable[[Path], bool]
    do: Callable[[], object]
    done: threading.Event = field(default_factory=threading.Event)
    at: float = 0.0
    """On the monotonic clock."""

    def watch(self, storage: Path) -> None:
        threading.Thread(target=self._watch, args=(storage,), daemon=True).start()

    def _watch(self, storage: Path) -> None:
        deadline = time.monotonic() + 1000
        if do_while(
            partial(self.when, storage), self._strike, partial(of_kind, "RayTrainWorker"),
            lambda: time.monotonic() > deadline,
        ):  # fmt: skip
            self.done.set()

    def _strike(self) -> None:
        self.at = time.monotonic()
        self.do()

    def recovered_s(self, swept: Swept, sign: str) -> float:
        """To the first line with `sign` after it."""
        back = next(at for at, line in zip(swept.times, swept.lines, strict=True) if at > self.at and sign in line)
        return back - self.at


def saved_step(storage: Path) -> int:
    """The newest step from which a trial of this storage could go on; -1 for none."""
    with suppress(FileNotFoundError):  # a state is removed while this looks
        found = storage.glob("trials/*/resume/step-*")
        return max((int(path.name.removeprefix("step-")) for path in found), default=-1)
    return -1


def kill_a(kind: str) -> None:
    """kill -9 of a trial's RayTrainWorker, TrainController or ImplicitFunc (its driver)."""
    of_kind(kind)[0].kill()


def of_kind(kind: str) -> list[psutil.Process]:
    """Processes of the cluster that this process has started, with this in their titles."""
    return [process for process in psutil.Process().children(recursive=True) if kind in title(process)]


def sweep(storage: Path, *overrides: str, text: str = SPEC, concurrent: int = 1,
          disturbance: Disturbance | None = None, pool: ScriptedPool | None = None) -> Swept:  # fmt: skip
    """Runs the sweep to its end on the cluster this process is connected to."""
    storage.mkdir(exist_ok=True)
    path = storage.parent / "real-trials.yaml"
    path.write_text(text, encoding="utf-8")
    prepared = prepare(load_sweep(path, overrides))
    uri = f"sqlite:///{storage}/mlflow.db"
    tracker = Tracker(uri, str(storage / "artifacts"))
    runs = TrialRuns(tracker, Reader(uri), prepared, partial(used_hours, uri, prepared.sweep_id))
    lines: list[str] = []
    times: list[float] = []

    def say(topic: str, line: str) -> None:
        times.append(time.monotonic())
        lines.append(f"{topic}: {line}")

    pool = pool or ScriptedPool()
    pool.gate.set()
    if disturbance:
        disturbance.watch(storage)
    outcome = run_missing(
        prepared,
        runs,
        storage,
        say,
        lambda: nullcontext((pool, concurrent)),
    )
    return Swept(prepared, storage, outcome, lines, pool.swaps, times)
