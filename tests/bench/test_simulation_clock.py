"""The virtual clock: what passes between threads does so in order, and time only while all of them wait."""

from __future__ import annotations

import time

import pytest

from tests.bench.simulation_clock import Clock, Executor, Stuck, queue_on, threading_on


def test_hours_pass_at_once_and_in_order() -> None:
    clock, seen, began = Clock(), [], time.monotonic()
    threads = threading_on(clock)

    def work(name: str, seconds: float) -> None:
        clock.sleep(seconds)
        seen.append((name, clock.now))

    workers = [threads.Thread(target=work, args=each) for each in (("b", 7200.0), ("a", 3600.0), ("c", 7200.0))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert seen == [("a", 3600.0), ("b", 7200.0), ("c", 7200.0)]
    assert clock.most_threads == 4 and time.monotonic() - began < 5


def test_who_is_handed_something_goes_on_before_time_does() -> None:
    clock, seen = Clock(), []
    queues, threads = queue_on(clock), threading_on(clock)
    waiting = queues.PriorityQueue()

    def work() -> None:
        while (item := waiting.get()) != 9:
            seen.append((item, clock.now))
            clock.sleep(1.0)

    worker = threads.Thread(target=work)
    worker.start()
    clock.sleep(5.0)
    for item in (3, 2, 1, 9):
        waiting.put(item)
    worker.join()
    assert seen == [(1, 5.0), (2, 6.0), (3, 7.0)]
    with pytest.raises(queues.Empty):
        waiting.get(timeout=2.0)
    assert clock.now == 10.0


def test_a_lock_keeps_others_out_while_its_holder_sleeps() -> None:
    clock = Clock()
    threads = threading_on(clock)
    lock, ends = threads.Lock(), []

    def work(seconds: float) -> None:
        with lock:
            clock.sleep(seconds)
        ends.append(clock.now)

    list(Executor(clock, 3).map(work, [2.0, 3.0, 4.0]))
    assert ends == [2.0, 5.0, 9.0]
    assert lock.acquire(blocking=False) and not lock.acquire(blocking=False)


def test_waiting_for_what_cannot_come_is_an_error() -> None:
    clock = Clock()
    threads = threading_on(clock)
    event = threads.Event()
    assert not event.wait(30.0) and clock.now == 30.0
    threads.Thread(target=event.wait).start()
    with pytest.raises(Stuck):
        event.wait()
