"""Streams of a job's lines end with the job, whatever becomes of the connection to Ray; and who reads is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from dft_sweeps.orchestration.cluster import ClusterUnavailable
from services import api_events
from services.jobs import SweepJob
from services.sweep_views import SweepViews
from tests.services.in_process_api import WrittenDown
from tests.services.test_api import events

SWEEP = "s-0123456789abcdef"
JOB = f"{SWEEP}-a1"
NO_SOCKET = aiohttp.WSServerHandshakeError(
    aiohttp.RequestInfo(URL("http://ray"), "GET", {}, URL("http://ray")),
    (),
    status=500,
    message="no socket",  # type: ignore[arg-type]
)


class Breaking(WrittenDown):
    """A job whose log breaks off after a line, once for each of `errors`, and which ends at the look `ends_at`."""

    def __init__(self, storage: Path, *errors: Exception, ends_at: int) -> None:
        super().__init__()
        self.errors, self.ends_at, self.looks = list(errors), ends_at, 0
        self.start(JOB, storage, "mine", 1)

    async def follow(self, id_: str) -> AsyncIterator[str]:
        self.looks += 1
        if self.looks == self.ends_at:
            self.end(id_, "FAILED")
        yield "first"
        if self.errors:
            raise self.errors.pop(0)
        yield "second"


def streamed(jobs: WrittenDown, storage: Path) -> list[tuple[str, dict[str, object]]]:
    views = SweepViews(jobs, f"sqlite:///{storage}/none.db", lambda *_: [])  # type: ignore[arg-type]

    async def whole() -> str:
        return "".join([text async for text in api_events.events(jobs, views, SWEEP, None)])  # type: ignore[arg-type]

    found = asyncio.run(asyncio.wait_for(whole(), 60))
    return [(kind, data) for _, kind, data in events(found)]


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_events, "POLL_S", 0.05)


@pytest.mark.parametrize("error", [NO_SOCKET, aiohttp.ServerDisconnectedError(), RuntimeError("x"), KeyError("x")])
def test_a_log_that_breaks_off_is_told_of_and_taken_up(error: Exception, tmp_path: Path) -> None:
    found = streamed(Breaking(tmp_path, error, error, ends_at=1), tmp_path)
    assert [data["line"] for kind, data in found if kind == "log"] == ["first", "second"]
    (broken,) = [data["error"] for kind, data in found if kind == "unreachable"]
    assert f"the log of {JOB} broke off: {type(error).__name__}" in str(broken)
    assert [kind for kind, _ in found][-1] == "end" and found[-1][1]["status"] == "FAILED"


def test_a_log_that_stays_broken_keeps_nobody_after_its_job_has_ended(tmp_path: Path) -> None:
    jobs = Breaking(tmp_path, *[NO_SOCKET] * 100, ends_at=10)
    found = streamed(jobs, tmp_path)
    assert found[-1][0] == "end" and 10 <= jobs.looks < 15


def test_a_log_that_ends_before_its_job_is_no_end(tmp_path: Path) -> None:
    found = streamed(Breaking(tmp_path, ends_at=3), tmp_path)
    assert [data["line"] for kind, data in found if kind == "log"] == ["first", "second"]
    assert [data["status"] for kind, data in found if kind == "end"] == ["FAILED"]


def test_the_lines_alone_break_off_with_the_reason(tmp_path: Path) -> None:
    async def lines() -> list[object]:
        jobs = Breaking(tmp_path, NO_SOCKET, ends_at=1)
        return [item async for item in api_events.numbered_lines(jobs, JOB, 0)]  # type: ignore[arg-type]

    with pytest.raises(ClusterUnavailable, match="broke off: WSServerHandshakeError"):
        asyncio.run(asyncio.wait_for(lines(), 60))


def test_a_dashboard_that_is_silent_for_a_moment_ends_no_stream(tmp_path: Path) -> None:
    class Silent(Breaking):
        asked = 0

        def last(self, sweep_id: str) -> SweepJob | None:
            self.asked += 1
            if self.asked == 2:  # the first is asked by whoever opens the stream
                raise ClusterUnavailable("Ray's dashboard does not answer")
            return super().last(sweep_id)

    jobs = Silent(tmp_path, ends_at=1)
    found = streamed(jobs, tmp_path)
    assert jobs.asked >= 3
    assert [data["line"] for kind, data in found if kind == "log"] == ["first", "second"]
    assert found[-1][0] == "end"
