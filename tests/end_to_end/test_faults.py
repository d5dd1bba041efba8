"""Faults in the real command, at a random phase: one command ends or resumes the sweep, and its curves are those of an
undisturbed one, bit for bit. `DFT_SWEEPS_FAULT_SEED` repeats a draw, `DFT_SWEEPS_FAULT_DRAWS` makes more.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Whole
from tests.end_to_end.disturbing import (
    CHECKPOINTS,
    DRAWS,
    GENERATIONS,
    AtWork,
    Strike,
    database,
    dice,
    kill_a,
    require_whole,
    running,
    sweep,
    taken_up,
)
from tests.end_to_end.running import kill_hard, kill_train_worker
from tests.orchestration.real_trials import saved_step

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(2700)]
ATTEMPT_FAILED, EVALUATED = r"step (\d+): attempt 1 failed", r"step {} .*\(swap"
WORK_S = (0.05, 0.2)
"""Of an engine for a set of weights (CPU seconds): more than a lease takes, less than a swap and a generation."""
draws = pytest.mark.parametrize("draw", DRAWS)


@draws
def test_an_engine_killed_while_it_generates_is_replaced(whole: Whole, tmp_path: Path, draw: int) -> None:
    rng = dice("engine killed", draw)
    count, work_s = rng.randint(1, GENERATIONS - 2), rng.uniform(*WORK_S)
    strike = AtWork(tmp_path, count, work_s, "ray::EngineActor")
    finished = sweep(tmp_path, strike=strike)
    require_whole(finished, database(tmp_path), whole.points)
    recovered_s = strike.recovered_s(finished, ATTEMPT_FAILED, EVALUATED)
    print(f"generation {count} + {work_s:.2f} s of work: evaluates again after {recovered_s:.1f} s")


@draws
def test_a_replica_that_is_killed_is_replaced(whole: Whole, tmp_path: Path, draw: int) -> None:
    rng = dice("replica killed", draw)
    count, work_s = rng.randint(1, GENERATIONS - 2), rng.uniform(*WORK_S)
    strike = AtWork(tmp_path, count, work_s, "ray::ServeReplica")
    finished = sweep(tmp_path, strike=strike)
    require_whole(finished, database(tmp_path), whole.points)
    recovered_s = strike.recovered_s(finished, ATTEMPT_FAILED, EVALUATED)
    print(f"generation {count} + {work_s:.2f} s of work: evaluates again after {recovered_s:.1f} s")


@draws
def test_a_trial_whose_driver_is_killed_goes_on(whole: Whole, tmp_path: Path, draw: int) -> None:
    step = dice("driver killed", draw).randint(1, 6)  # in the last steps, an orphan may finish first
    strike = Strike(lambda: saved_step(tmp_path) >= step, kill_a("ray::ImplicitFunc"))
    finished = sweep(tmp_path, strike=strike)
    require_whole(finished, database(tmp_path), whole.points)
    recovered_s = strike.recovered_s(finished, "interrupted: ", "resumed at step")
    print(f"step {step}: goes on after {recovered_s:.1f} s")


@draws
def test_a_sweep_whose_mailbox_is_killed_ends_and_is_taken_up(whole: Whole, tmp_path: Path, draw: int) -> None:
    step = dice("mailbox killed", draw).randint(1, 11)
    strike = Strike(lambda: saved_step(tmp_path) >= step, kill_a("ray::Mailbox"))
    ended = sweep(tmp_path, strike=strike)
    assert ended.code == 3, ended.text
    assert "the same command takes the sweep up" in ended.lines[-1]
    assert "Traceback" not in ended.text
    assert (ended.left, running(database(tmp_path))) == ([], [])
    again = sweep(tmp_path)
    require_whole(again, database(tmp_path), whole.points)
    print(f"step {step}: {taken_up(again)}")


@draws
def test_a_checkpoint_half_written_is_written_again(whole: Whole, tmp_path: Path, draw: int) -> None:
    count = dice("checkpoint half written", draw).randint(1, CHECKPOINTS - 1)
    halves: list[Path] = []

    def writing() -> bool:
        halves[:] = tmp_path.glob("trials/*/.step-*.partial")
        return bool(halves) and len(list(tmp_path.glob("trials/*/step-*"))) >= count - 1

    def kill(pid: int, mark: str) -> None:
        os.kill(int(halves[0].suffixes[-2][1:]), signal.SIGKILL)  # the worker, whose id is in the name
        os.killpg(pid, signal.SIGKILL)

    killed = sweep(tmp_path, strike=Strike(writing, kill))
    assert (killed.code, killed.left) == (-9, [])
    assert halves[0].exists()
    resumed = sweep(tmp_path)
    assert "resumed at step" in resumed.text
    require_whole(resumed, database(tmp_path), whole.points)
    assert not halves[0].exists()
    print(f"checkpoint {count}: {taken_up(resumed)}")


@draws
def test_a_state_cut_off_is_told_and_not_taken_up(whole: Whole, tmp_path: Path, draw: int) -> None:
    rng = dice("state cut off", draw)
    step = rng.randint(1, 11)
    killed = sweep(tmp_path, strike=Strike(lambda: saved_step(tmp_path) >= step, kill_all))
    assert (killed.code, killed.left) == (-9, [])
    [*_, state] = sorted(tmp_path.glob("trials/*/resume/step-*/rank-00000.safetensors"))
    os.truncate(state, rng.randrange(state.stat().st_size))
    resumed = sweep(tmp_path)
    assert f"starts from step 0 again: its state cannot be taken up: {state} is damaged" in resumed.text
    require_whole(resumed, database(tmp_path), whole.points)
    print(f"step {step}: {taken_up(resumed)}")


def kill_all(pid: int, mark: str) -> None:
    """The worker first, which would train on for a moment."""
    kill_train_worker(pid, mark)
    kill_hard(pid, mark)


# --- what lies on the storage is changed between two commands ---------------------------------------------------------


@pytest.fixture
def storage(whole: Whole, tmp_path: Path) -> Iterator[Path]:
    """The finished sweep's, which is as it was after the test."""
    shutil.copytree(whole.storage, tmp_path / "kept")
    yield whole.storage
    shutil.rmtree(whole.storage)
    (tmp_path / "kept").rename(whole.storage)


def flip_a_bit(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def change_a_digit(file: Path, rng: random.Random) -> None:
    """So that it is still valid JSON, and says something else: the last of a number's 17 digits may make none."""
    before = file.read_text()
    places = [place for place, character in enumerate(before) if character in "123456789"]
    while [*map(json.loads, file.read_text().splitlines())] == [*map(json.loads, before.splitlines())]:
        place = rng.choice(places)
        digit = rng.choice("123456789".replace(before[place], ""))
        file.write_text(before[:place] + digit + before[place + 1 :])


def cut_off(file: Path, rng: random.Random) -> None:
    os.truncate(file, rng.randrange(file.stat().st_size))


Poison = Callable[[Path, random.Random], None]
POISONED: dict[str, tuple[str, Poison, str]] = {
    "completions": ("evaluations/*/completions.parquet", flip_a_bit, "grades"),
    "verdicts": ("grades/*/verdicts.parquet", flip_a_bit, ""),
    "data": ("encoded/*.npz", flip_a_bit, "trials"),
    "rows": ("trials/*/metrics.jsonl", change_a_digit, ""),
    "checkpoints": ("trials/*/checkpoints.json", change_a_digit, ""),
    "weights": ("trials/*/step-*/model.safetensors", cut_off, ""),
}
"""Files, what is done to one of them, and what is removed so that it is read."""


@draws
@pytest.mark.parametrize("name", POISONED)
def test_a_poisoned_file_is_named_and_never_used(
    whole: Whole, storage: Path, tmp_path: Path, name: str, draw: int
) -> None:
    """A new MLflow knows nothing of the sweep, and gets everything from the storage."""
    files, poison, removed = POISONED[name]
    rng = dice(f"{name} poisoned", draw)
    file = rng.choice(sorted(storage.glob(files)))
    poison(file, rng)
    if removed:
        shutil.rmtree(storage / removed)
    uri = f"sqlite:///{tmp_path / 'other.db'}"
    finished = sweep(storage, "--tracking-uri", uri)
    assert str(file) in finished.text
    if finished.code:
        assert (finished.code, finished.left, running(uri)) == (1, [], []), finished.text
        assert "Traceback" not in finished.text
        file.unlink() if name == "data" else shutil.rmtree(file.parent)  # as it says
        finished = sweep(storage, "--tracking-uri", uri)
    require_whole(finished, uri, whole.points)
    print(f"{file.name}: {taken_up(finished)}")


# --- the storage itself -----------------------------------------------------------------------------------------------


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a file system for the test."""
    place = tmp_path / "mounted"
    place.mkdir()

    def mount(*arguments: str) -> Path:
        done = subprocess.run(["mount", *arguments, str(place)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this machine mounts nothing: {done.stderr.strip()}")
        return place

    yield mount
    subprocess.run(["umount", "--lazy", str(place)], capture_output=True)  # MLflow keeps its database open


@draws
def test_a_full_storage_ends_the_sweep_and_space_is_all_it_needs(
    whole: Whole, mounted: Callable[..., Path], draw: int
) -> None:
    needed = sum(path.stat().st_size for path in whole.storage.rglob("*") if path.is_file())
    size = int(needed * dice("storage full", draw).uniform(0.3, 0.9))
    storage = mounted("-t", "tmpfs", "-o", f"size={size}", "tmpfs")
    ended = sweep(storage)
    print("\n".join(ended.lines[-12:]))
    assert ended.code in {1, 3}
    assert re.search("No space left on device|disk is full", ended.text)
    assert "Traceback" not in ended.text
    assert ended.left == []
    mounted("-o", "remount,size=4g")
    again = sweep(storage)
    require_whole(again, database(storage), whole.points)
    print(f"{size} of {needed} bytes: {taken_up(again)}")


@draws
def test_a_storage_that_becomes_read_only_ends_the_sweep(
    whole: Whole, mounted: Callable[..., Path], tmp_path: Path, draw: int
) -> None:
    """As a disk that fails does: ext4 notices an error, and takes no more writes."""
    step = dice("storage read-only", draw).randint(1, 11)
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 2**30)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    storage = mounted("-o", "loop,errors=remount-ro", str(image))

    def fail(pid: int, mark: str) -> None:
        [device] = [line.split()[0] for line in Path("/proc/mounts").read_text().splitlines() if f" {storage} " in line]
        Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("1")

    ended = sweep(storage, strike=Strike(lambda: saved_step(storage) >= step, fail))
    print("\n".join(ended.lines[-12:]))
    assert ended.code in {1, 3}
    assert re.search("[Rr]ead-only|readonly", ended.text)
    assert "Traceback" not in ended.text
    assert ended.left == []
    refused = sweep(storage)
    assert refused.code in {2, 3}
    assert re.search(f"{storage}.*(cannot be written to|Read-only file system)", refused.lines[-1])
    assert (refused.left, "Traceback" in refused.text) == ([], False)
    subprocess.run(["umount", storage], check=True)
    subprocess.run(["fsck.ext4", "-p", image], check=False, capture_output=True)
    mounted("-o", "loop", str(image))
    again = sweep(storage)
    require_whole(again, database(storage), whole.points)
    print(f"step {step}: {taken_up(again)}")
