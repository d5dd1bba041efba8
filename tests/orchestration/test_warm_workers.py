"""When a group of workers ends by itself; without Ray, whose place a mailbox that answers at once takes."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from dft_sweeps.orchestration import warm_workers
from dft_sweeps.orchestration.warm_workers import WorkerGroup

JOB: Any = SimpleNamespace(training_id="a", until=4)


class Answering:
    """Stands for the mailbox."""

    def __init__(self, freed: bool) -> None:
        self.ended = threading.Event()
        self.hand_over = self.wait_done = SimpleNamespace(remote=lambda *call: True)
        self.freed = SimpleNamespace(remote=lambda group: freed)
        self.end = SimpleNamespace(remote=lambda group: self.ended.set())


def trained(monkeypatch: pytest.MonkeyPatch, freed: bool) -> tuple[WorkerGroup, Answering]:
    """A group that has done a job."""
    mailbox: Any = Answering(freed)
    monkeypatch.setattr(WorkerGroup, "_fit", lambda self, execution, storage: threading.Event().wait(10))
    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(ray, "wait", lambda waiting, timeout: (waiting, []))
    group = WorkerGroup(None, "", mailbox)  # type: ignore[arg-type]
    group.train(JOB)
    return group, mailbox


def test_a_group_takes_the_next_job_and_ends_if_none_is_given_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune may have given the job for which it was freed to another driver, and keep this one with its workers."""
    group, mailbox = trained(monkeypatch, freed=True)
    assert group.claim()
    monkeypatch.setattr(warm_workers, "_UNUSED_S", 0.05)
    group.train(JOB)
    assert mailbox.ended.wait(5)
    assert not group.claim()


def test_a_group_that_is_to_end_gets_no_job_though_its_end_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_workers, "_END_S", 0.0)
    group, mailbox = trained(monkeypatch, freed=False)
    assert mailbox.ended.is_set()
    assert not group.claim()
