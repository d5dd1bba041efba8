"""What the service does by itself goes on whatever happens, and what happens is told. Ray's side is written down."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from dft_sweeps.orchestration.cluster import ClusterUnavailable
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.writer import Tracker
from services import tidying
from services.sweep_views import SweepViews
from tests.services.in_process_api import WrittenDown

SWEEPS = [f"s-{number:016x}" for number in range(3)]


class Failing(WrittenDown):
    """Jobs whose first looks at the queue fail, each with the next of some errors."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors, self.looks = list(errors), 0

    def start_waiting(self, at_once: int) -> None:
        self.looks += 1
        if self.errors:
            raise self.errors.pop(0)


async def kept_up(loop: Coroutine[None, None, None], done: Callable[[], bool]) -> None:
    """Lets it run until `done`, and some rounds longer."""
    task, deadline = asyncio.create_task(loop), time.monotonic() + 60
    while not done() and time.monotonic() < deadline:  # noqa: ASYNC110 - others change what it looks at
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)
    assert not task.done()
    task.cancel()


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidying, "START_EVERY_S", 0.01)
    monkeypatch.setattr(tidying, "EVERY_S", 0.1)


def test_no_error_ends_the_starting_of_sweeps_and_each_kind_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_only = OSError(errno.EROFS, os.strerror(errno.EROFS))
    jobs = Failing(*[read_only] * 3, *[ClusterUnavailable("no dashboard")] * 3, *[KeyError("x")] * 3)
    views = SweepViews(jobs, f"sqlite:///{tmp_path}/none.db", lambda *_: [])  # type: ignore[arg-type]
    asyncio.run(kept_up(tidying.keep_starting(jobs, views, 1), lambda: jobs.looks > 10))  # type: ignore[arg-type]
    assert jobs.looks > 10
    told = [record.getMessage() for record in caplog.records if record.name == tidying.logger.name]
    assert [line.split(": ")[1] for line in told] == ["OSError", "ClusterUnavailable", "KeyError"]
    assert all(line.startswith("starting sweeps that wait failed, and is tried again") for line in told)


def test_a_sweep_that_cannot_be_tidied_up_after_keeps_no_other_from_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker, jobs = Tracker(uri, str(tmp_path / "artifacts")), WrittenDown()
    for sweep_id in SWEEPS:
        tracker.open_sweep("mine", sweep_id, "", [{"training_id": f"t-{sweep_id}", "name": "", "axes": {}}], "m")
        jobs.start(f"{sweep_id}-a1", tmp_path, "mine", 1)
        jobs.end(f"{sweep_id}-a1", "FAILED")
    (tmp_path / "locks" / f"{SWEEPS[1]}.lock").mkdir(parents=True)  # which no file can then be
    views = SweepViews(jobs, uri, lambda *_: [])  # type: ignore[arg-type]

    def statuses() -> list[str]:
        return [row.status for row in sorted(Reader(uri).sweeps(), key=lambda row: row.sweep_id)]

    loop = tidying.keep_tidy(jobs, views, tmp_path, uri)  # type: ignore[arg-type]
    asyncio.run(kept_up(loop, lambda: statuses() == ["KILLED", "RUNNING", "KILLED"]))
    assert statuses() == ["KILLED", "RUNNING", "KILLED"]
    told = [record.getMessage() for record in caplog.records if "tried again" in record.getMessage()]
    assert len(told) == 1 and told[0].startswith(f"tidying up after {SWEEPS[1]} failed"), told
