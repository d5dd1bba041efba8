"""A sweep on files whose trials are a script: they record runs in a real MLflow, train nothing, and end when a gate
opens. As a program, a process that runs one: STORAGE DIRECTORY."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from dft_sweeps.orchestration import sharing
from dft_sweeps.orchestration.coordinator import Outcome
from dft_sweeps.orchestration.prepare import PreparedSweep
from dft_sweeps.orchestration.trial_runs import TrialRuns
from dft_sweeps.tracking.background import Background
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.writer import Tracker
from tests.orchestration.file_sweep import prepared


class ScriptedCoordinator:
    """Stands for the coordinator: notes in `storage/ran` what it runs, one line a trial."""

    failing: Collection[str] = ()
    """Names of trials that fail."""

    def __init__(self, prepared: PreparedSweep, runs: TrialRuns, storage: Path, say: Callable[[str, str], None],
                 only: Collection[str], on_end: Callable[[str], None]) -> None:  # fmt: skip
        self._trials = [trial for trial in prepared.trials if trial.training_id in only]
        self._runs, self._storage, self._say, self._on_end = runs, storage, say, on_end

    def wait(self, name: str) -> None:
        """Lasts as long as the trial of this name trains."""
        while not (self._storage / "gate").exists():
            time.sleep(0.05)

    def run(self, pool: object, concurrent: int) -> Outcome:
        failed = {}
        for trial in self._trials:
            self._runs.open(trial)
        for trial in self._trials:
            with (self._storage / "ran").open("a") as ran:
                ran.write(f"{trial.trial.name}\n")
            self._say("train", f"{trial.trial.name}: started")
            self.wait(trial.trial.name)
            if trial.trial.name in self.failing:
                failed[trial.trial.name] = "as scripted"
            self._runs.finish(trial.training_id, "FAILED" if trial.trial.name in failed else "FINISHED")
            self._runs.flush()
            for training_id in self._runs.recorded():
                self._on_end(training_id)
        return Outcome(len(self._trials) - len(failed), 0, failed)


@contextmanager
def services() -> Iterator[tuple[None, int]]:
    yield None, 1


def run_scripted(
    swept: PreparedSweep, storage: Path, say: Callable[[str, str], None], only: Collection[str] | None = None,
    fresh: bool = False,
) -> Outcome:  # fmt: skip
    uri = f"sqlite:///{storage}/mlflow.db"
    tracker = Background(
        Tracker(uri, str(storage / "artifacts")), storage / "spool", lambda line: say("tracking", line)
    )
    runs = TrialRuns(tracker, Reader(uri), swept)
    return sharing.run_missing(swept, runs, storage, say, services, only, fresh)


@dataclass
class Shell:
    """A thread that runs a sweep, as another process would."""

    lines: list[str] = field(default_factory=list)
    outcome: Outcome | None = None

    def run(self, *arguments: object, **options: object) -> Shell:
        def work() -> None:
            self.outcome = run_scripted(*arguments, lambda topic, line: self.lines.append(line), **options)  # type: ignore[arg-type]

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()
        return self

    def says(self, text: str) -> None:
        wait_for(lambda: any(text in line for line in self.lines), text)

    def ended(self) -> Outcome:
        self._thread.join(300)
        assert self.outcome is not None, self.lines
        return self.outcome


def wait_for(holds: Callable[[], bool], what: str, within_s: float = 300) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def main() -> None:
    storage, directory = Path(sys.argv[1]), Path(sys.argv[2])
    with patch.object(sharing, "Coordinator", ScriptedCoordinator), patch.object(sharing, "POLL_S", 0.1):
        outcome = run_scripted(prepared(directory), storage, lambda topic, line: print(line, flush=True))
    print(f"{os.getpid()}: {outcome.finished} finished, {outcome.reused} reused, {len(outcome.failed)} failed")


if __name__ == "__main__":
    main()
