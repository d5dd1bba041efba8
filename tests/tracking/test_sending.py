"""In which order, and in how many requests, what waits in a spool gets to MLflow; MLflow is a list here."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from dft_sweeps.tracking.sending import Sending
from dft_sweeps.tracking.spool import new_spool
from dft_sweeps.tracking.store import TrackingUnavailable
from dft_sweeps.tracking.writer import MetricRow

RUNS, STEPS = 40, 30


class Requests:
    """In the place of `Tracker`: answers, or not, by chance."""

    address = "listed"

    def __init__(self, failing: float = 0.0) -> None:
        self.calls: list[tuple[str, str, Any]] = []
        self._failing, self._chance = failing, random.Random(7)

    def _take(self, kind: str, run: str, what: Any) -> None:
        if self._chance.random() < self._failing:
            raise TrackingUnavailable("no answer")
        self.calls.append((kind, run, what))

    def open_trial(self, parent: str, training_id: str, *_: object) -> str:
        self._take("open_trial", f"in MLflow: {training_id}", None)
        return f"in MLflow: {training_id}"

    def send(self, run: str, rows: list[MetricRow]) -> None:
        self._take("send", run, [row.step for row in rows])

    def tag(self, run: str, tags: dict[str, str]) -> None:
        self._take("tag", run, tags)

    def log_text(self, run: str, text: str, path: str) -> None:
        raise AssertionError("nothing here writes texts")

    def finish(self, run: str, status: str, *_: object) -> None:
        self._take("finish", run, status)


def spooled(tracker: Any, directory: Path) -> Sending:
    """What many trials write side by side, each a row a step, with a tag of some trial after every step."""
    sending = Sending(tracker, new_spool(directory))
    for run in range(RUNS):
        sending.add("open_trial", f"r{run}", ["parent", f"t{run}"])
    for step in range(STEPS):
        for run in range(RUNS):
            sending.add("log", f"r{run}", [["train/nll", step, 0.5, step]], durable=False)
        sending.add("tag", f"r{step}", [{"step": str(step)}])
    for run in range(RUNS):
        sending.add("finish", f"r{run}", ["FINISHED", 0])
    sending.add("finish", "parent", ["FINISHED", 0])
    return sending


def require_order(calls: list[tuple[str, str, Any]]) -> None:
    for run in range(RUNS):
        own = [(kind, what) for kind, id_, what in calls if id_ == f"in MLflow: t{run}"]
        steps = [step for kind, what in own if kind == "send" for step in what]
        assert steps == [*range(STEPS)] and own[0][0] == "open_trial" and own[-1] == ("finish", "FINISHED")
        if run < STEPS:  # its tag comes after the rows that were written before it
            before = own[: [kind for kind, _ in own].index("tag")]
            assert sum(len(what) for kind, what in before if kind == "send") == run + 1
    assert [what["step"] for kind, _, what in calls if kind == "tag"] == [str(step) for step in range(STEPS)]
    assert calls[-1][1] == "parent"


def test_rows_of_a_run_are_gathered_whatever_others_write_meanwhile(tmp_path: Path) -> None:
    tracker = Requests()
    sending = spooled(tracker, tmp_path)
    sending.send()
    assert sending.waiting == 0
    require_order(tracker.calls)
    assert sum(kind == "send" for kind, _, _ in tracker.calls) <= RUNS + STEPS


def test_a_request_that_fails_costs_no_other_one_again(tmp_path: Path) -> None:
    tracker = Requests(failing=0.3)
    sending = spooled(tracker, tmp_path)
    waiting, tries = [sending.waiting], 0
    while sending.waiting:
        tries += 1
        try:
            sending.send()
        except TrackingUnavailable:
            waiting.append(sending.waiting)
    assert tries > 10
    require_order(tracker.calls)
    assert waiting == sorted(waiting, reverse=True)
    assert sum(kind == "send" for kind, _, _ in tracker.calls) <= RUNS + STEPS


def test_the_next_process_goes_on_after_the_last_note(tmp_path: Path) -> None:
    tracker = Requests(failing=0.3)
    sending = spooled(tracker, tmp_path)
    for _ in range(20):
        with pytest.raises(TrackingUnavailable):
            sending.send()
    got_in, steady = tracker.calls, Requests()
    again = Sending(steady, sending.spool)  # type: ignore[arg-type]
    again.send()
    assert again.waiting == 0
    rows = {(run, step) for kind, run, what in [*got_in, *steady.calls] if kind == "send" for step in what}
    assert len(rows) == RUNS * STEPS
