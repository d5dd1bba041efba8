"""Every fault, one after another in a random order and at random moments, in one sweep that is taken up until it ends.

`DFT_SWEEPS_FAULT_SEED` repeats a draw, `DFT_SWEEPS_FAULT_DRAWS` makes more, `DFT_SWEEPS_OUTAGE_S` says for how long
MLflow is away.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.end_to_end.disturbing import (
    ATTEMPT_FAILED,
    DRAWS,
    EVALUATED,
    WORK_S,
    AtWork,
    Points,
    database,
    dice,
    kill_a,
    require_whole,
)
from tests.end_to_end.mounted import fail, fill, mend, mounted
from tests.end_to_end.poison import POISONED, cut_off, require_that_poison_is_named
from tests.end_to_end.running import SPEC, Do, Finished, Running, do_while, kill_hard, run, standing_still, trainers
from tests.tracking.conftest import server  # noqa: F401 (a fixture)
from tests.tracking.servers import MlflowServer

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]
STEPS = 100
LONG = (
    "--set",
    f"trial.train.steps={STEPS}",
    "--set",
    "trial.evaluation.every=10",
    "--set",
    "execution.save_every_s=0",
)
OUTAGE_S = float(os.environ.get("DFT_SWEEPS_OUTAGE_S", "120"))
MOST_STEPS = 4
"""Between a recovery and the next fault."""
RECOVERING_S = 400.0


@dataclass
class Storm:
    storage: Path
    server: MlflowServer
    rng: random.Random
    suffered: list[str] = field(default_factory=list)
    """A line for each fault."""

    def command(self, uri: str | None = None, **options: object) -> Finished:
        where = ("--storage", str(self.storage), "--tracking-uri", uri or self.server.uri)
        return run("run", str(SPEC), *LONG, *where, timeout_s=3000.0, **options)

    def states(self) -> set[Path]:
        """From which trials could go on."""
        with suppress(FileNotFoundError):  # one is removed while this looks
            return set(self.storage.glob("trials/*/resume/step-*"))
        return set()

    def some_steps(self) -> Callable[[], bool]:
        """Whether a drawn number of steps was saved since now."""
        before, wanted = self.states(), self.rng.randint(1, MOST_STEPS)
        seen: set[Path] = set()

        def passed() -> bool:
            seen.update(self.states() - before)
            return len(seen) >= wanted

        return passed

    def note(self, fault: str, outcome: str) -> None:
        self.suffered.append(f"{fault}: {outcome}")
        print(self.suffered[-1], flush=True)


Fault = Callable[[Storm, Running], None]


def strike(storm: Storm, running: Running, do: Do) -> float:
    """Does it to the command after some steps; gives the moment."""
    moments: list[float] = []

    def struck() -> None:
        moments.append(time.monotonic())
        do(running.pid, running.mark)

    do_while(storm.some_steps(), struck, partial(trainers, running.mark), running.over)
    assert moments, "the fault never struck"
    return moments[0]


def await_line(running: Running, sign: str, since: float) -> tuple[float, re.Match[str]]:
    while not (found := running.look(sign, since)):
        assert not running.over() and time.monotonic() < since + RECOVERING_S, f"no {sign!r}"
        time.sleep(0.05)
    return found


# --- faults that a command survives: each returns once it has ---------------------------------------------------------


def in_training(victim: str) -> Fault:
    def fault(storm: Storm, running: Running) -> None:
        at = strike(storm, running, kill_a(victim))
        told, _ = await_line(running, "interrupted: ", at)
        back, found = await_line(running, r"resumed at step \d+ of \d+", told)
        storm.note(f"{victim} killed", f"{found[0]} after {back - at:.1f} s")

    return fault


def in_evaluation(victim: str) -> Fault:
    def fault(storm: Storm, running: Running) -> None:
        strike(storm, running, lambda pid, mark: None)
        work = AtWork(storm.storage, 0, storm.rng.uniform(*WORK_S), victim)
        work.strike(running.pid, running.mark)
        with standing_still(trainers(running.mark)):  # else they are done before the engine is back
            told, found = await_line(running, ATTEMPT_FAILED, work.at)
            back, _ = await_line(running, EVALUATED.format(*found.groups()), told)
        storm.note(f"{victim} killed", f"step {found[1]} is evaluated after {back - work.at:.1f} s")

    return fault


def mlflow_away(storm: Storm, running: Running) -> None:
    at = strike(storm, running, lambda pid, mark: storm.server.kill())
    strike(storm, running, lambda pid, mark: None)
    with standing_still(trainers(running.mark)):
        time.sleep(max(0.0, at + OUTAGE_S - time.monotonic()))
        storm.server.start()
        back, _ = await_line(running, "MLflow answers again, and has caught up", at)
    storm.note("MLflow away", f"it has everything {back - at:.1f} s after it was killed")


SURVIVED = {
    "train worker": in_training("RayTrainWorker"),
    "train controller": in_training("TrainController"),
    "trial driver": in_training("ray::ImplicitFunc"),
    "engine": in_evaluation("ray::EngineActor"),
    "replica": in_evaluation("ray::ServeReplica"),
    "MLflow away": mlflow_away,
}

# --- faults that end a command ----------------------------------------------------------------------------------------


def after_some_steps(do: Do) -> Fault:
    def fault(storm: Storm, running: Running) -> None:
        strike(storm, running, do)

    return fault


def all_at_once(pid: int, mark: str) -> None:
    """The workers first, which would train on for a moment."""
    for process in trainers(mark):
        process.kill()
    kill_hard(pid, mark)


def half_a_checkpoint(storm: Storm, running: Running) -> None:
    halves: list[Path] = []

    def writing() -> bool:
        halves[:] = storm.storage.glob("trials/*/.step-*.partial")
        return bool(halves)

    def kill() -> None:
        os.kill(int(halves[0].suffixes[-2][1:]), signal.SIGKILL)  # the worker, whose id is in the name
        os.killpg(running.pid, signal.SIGKILL)

    assert do_while(writing, kill, partial(trainers, running.mark), running.over), "no checkpoint was written"


def full(storm: Storm, running: Running) -> None:
    strike(storm, running, lambda pid, mark: fill(storm.storage))


def read_only(storm: Storm, running: Running) -> None:
    strike(storm, running, lambda pid, mark: fail(storm.storage))


ENDINGS: dict[str, tuple[Fault, set[int], str]] = {
    "coordinator": (after_some_steps(kill_hard), {-9}, ""),
    "mailbox": (after_some_steps(kill_a("ray::Mailbox")), {3}, "the same command takes the sweep up"),
    "checkpoint half written": (half_a_checkpoint, {-9}, ""),
    "state cut off": (after_some_steps(all_at_once), {-9}, ""),
    "storage full": (full, {1, 3}, "No space left on device|disk is full"),
    "storage read-only": (read_only, {1, 3}, "[Rr]ead-only|readonly"),
}
"""How each ends the command: its exit codes, and what it says."""


def after(name: str, storm: Storm) -> str:
    """What is done between that end and the next command; gives what the next one says of it."""
    if name == "state cut off":
        [*_, state] = sorted(storm.storage.glob("trials/*/resume/step-*/rank-00000.safetensors"))
        cut_off(state, storm.rng)
        return f"starts from step 0 again: its state cannot be taken up: {state} is damaged"
    if name == "storage read-only":
        refused = storm.command()
        assert refused.code in {2, 3} and "Traceback" not in refused.text, refused.text
        assert str(storm.storage) in refused.lines[-1] and refused.left == []
        assert re.search("cannot be written to|Read-only file system", refused.lines[-1])
    mend(storm.storage)
    return "(resumed at|are finished already)"


# --- the storm --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Points:
    """The curves of the undisturbed sweep."""
    storage = tmp_path_factory.mktemp("whole") / "storage"
    finished = run("run", str(SPEC), *LONG, "--storage", str(storage))
    found = require_whole(finished, database(storage))
    assert {steps[-1][0] for steps in found.values()} == {STEPS}
    return found


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path) as place:
        yield place


@pytest.mark.parametrize("draw", DRAWS)
def test_a_sweep_in_a_storm_ends_as_if_nothing_had_been(
    whole: Points,
    storage: Path,
    server: MlflowServer,  # noqa: F811
    tmp_path: Path,
    draw: int,
) -> None:
    storm = Storm(storage, server, dice("storm", draw))
    faults = [*SURVIVED, *ENDINGS]
    if not storage.is_mount():
        print("this machine mounts nothing: the storage becomes neither full nor read-only")
        faults = [name for name in faults if not name.startswith("storage ")]
    storm.rng.shuffle(faults)
    print(" | ".join(faults))
    before = ""
    while left := [name for name in faults if name in ENDINGS]:
        end = faults.index(left[0])
        before = struck(storm, faults[:end], left[0], before)
        faults = faults[end + 1 :]
    mlflow_down_to_the_end(storm, faults, before)
    last = storm.command()
    assert "rows that an earlier run left are in MLflow now" in last.text
    require_whole(last, server.uri, whole)
    assert list(storage.glob("trials/*/.step-*.partial")) == []

    name, uri = storm.rng.choice([*POISONED]), f"sqlite:///{tmp_path / 'other.db'}"
    told = require_that_poison_is_named(name, storage, storm.rng, uri, lambda: storm.command(uri), whole)
    storm.note(f"{name} poisoned", told)


def struck(storm: Storm, survived: list[str], name: str, before: str) -> str:
    """A command is struck by faults that it survives, and by the one of this name. `before` is what it says of the
    fault before it; gives what the next one says."""
    fault, codes, said = ENDINGS[name]

    def disturb(running: Running) -> None:
        for each in survived:
            SURVIVED[each](storm, running)
        fault(storm, running)

    ended = storm.command(disturb=disturb)
    assert ended.code in codes and re.search(said, ended.text), f"{name}:\n{ended.text}"
    assert "Traceback" not in ended.text, ended.text
    assert ended.left == [], f"{name}:\n{ended.text}"
    assert re.search(before, ended.text), f"no {before!r}:\n{ended.text}"
    storm.note(name, f"exit code {ended.code}")
    return after(name, storm)


def mlflow_down_to_the_end(storm: Storm, survived: list[str], before: str) -> None:
    def disturb(running: Running) -> None:
        for each in survived:
            SURVIVED[each](storm, running)
        strike(storm, running, lambda pid, mark: storm.server.kill())

    ended = storm.command(disturb=disturb)
    assert ended.code == 3 and re.search(r"rows wait in .*\. Nothing is lost", ended.lines[-1]), ended.text
    assert "Traceback" not in ended.text and ended.left == [], ended.text
    assert re.search(before, ended.text), f"no {before!r}:\n{ended.text}"
    storm.server.start()
    storm.note("MLflow down to the end", "exit code 3")
