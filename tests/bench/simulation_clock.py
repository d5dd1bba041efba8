"""A virtual clock: threads of a simulation run one at a time, and time passes when all of them wait.

What stands in for `threading`, `queue` and `time` in the modules under test is made here, so that their code runs as it
is. Threads go on in the order in which they were woken, so a simulation takes the same course every time.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, Generic, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
EPOCH_S = 1_700_000_000.0
"""What `time.time()` says at the start."""


class Stuck(RuntimeError):
    """Every thread waits, and nothing is to come."""


class _Turn:
    """One wait of one thread."""

    def __init__(self) -> None:
        self.over = self.woken = False
        self.gate = threading.Lock()
        self.gate.acquire()


class Clock:
    """Seconds since its making. The thread that makes it is the simulation's first."""

    def __init__(self) -> None:
        self.now = 0.0
        self.threads = self.most_threads = 1
        self._ready: deque[_Turn] = deque()
        self._timers: list[tuple[float, int, _Turn]] = []
        self._numbers = itertools.count()
        self._first = threading.get_ident()
        self._of_first: _Turn | None = None
        self._stuck = False

    def sleep(self, seconds: float) -> None:
        self.wait(_Turn(), max(0.0, seconds))

    def wait(self, turn: _Turn, timeout: float | None) -> bool:
        """Lets others run until the turn is woken; False if the time was up before."""
        if timeout is not None:
            heapq.heappush(self._timers, (self.now + timeout, next(self._numbers), turn))
        if threading.get_ident() == self._first:
            self._of_first = turn
        following = self._next()
        if following is not turn:
            following.gate.release()
            turn.gate.acquire()
        if self._stuck and threading.get_ident() == self._first:
            raise Stuck(f"nothing is to come after {self.now:.1f} s")
        return turn.woken

    def wake(self, turn: _Turn) -> None:
        if not turn.over:
            turn.over = turn.woken = True
            self._ready.append(turn)

    def start(self, run: Callable[[], None]) -> None:
        """Runs a function in a thread of the simulation, once its turn comes."""
        turn = _Turn()
        self.wake(turn)
        self.threads += 1
        self.most_threads = max(self.most_threads, self.threads)

        def body() -> None:
            turn.gate.acquire()
            try:
                run()
            finally:
                self.threads -= 1
                self._next().gate.release()

        threading.Thread(target=body, daemon=True).start()

    def _next(self) -> _Turn:
        """Whose turn it is, once the time has come to that."""
        while not self._ready and self._timers:
            at, _, turn = heapq.heappop(self._timers)
            if not turn.over:
                self.now, turn.over = max(self.now, at), True
                return turn
        if self._ready:
            return self._ready.popleft()
        assert self._of_first is not None
        self._stuck = True  # which the first thread, that the others work for, says
        return self._of_first


class Lock:
    def __init__(self, clock: Clock) -> None:
        self._clock, self._held = clock, False
        self._waiting: deque[_Turn] = deque()

    def acquire(self, blocking: bool = True) -> bool:
        while self._held:
            if not blocking:
                return False
            self._waiting.append(turn := _Turn())
            self._clock.wait(turn, None)
        self._held = True
        return True

    def release(self) -> None:
        self._held = False
        if self._waiting:
            self._clock.wake(self._waiting.popleft())

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Condition(Lock):
    """Notifies all, as its users here do."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._hoping: list[_Turn] = []

    def wait(self, timeout: float | None = None) -> bool:
        self._hoping.append(turn := _Turn())
        self.release()
        woken = self._clock.wait(turn, timeout)
        self.acquire()
        return woken

    def notify_all(self) -> None:
        for turn in self._hoping:
            self._clock.wake(turn)
        self._hoping = []


class Event:
    def __init__(self, clock: Clock) -> None:
        self._set, self._changed = False, Condition(clock)

    def set(self) -> None:
        self._set = True
        self._changed.notify_all()

    def clear(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            with self._changed:
                self._changed.wait(timeout)
        return self._set


class Thread:
    def __init__(self, clock: Clock, target: Callable[..., object], args: tuple[Any, ...] = (), **_: object) -> None:
        self._clock, self._run, self._ended = clock, partial(target, *args), Event(clock)
        self._started = False

    def start(self) -> None:
        self._started = True
        self._clock.start(self._whole)

    def _whole(self) -> None:
        try:
            self._run()
        finally:
            self._ended.set()

    def join(self, timeout: float | None = None) -> None:
        self._ended.wait(timeout)

    def is_alive(self) -> bool:
        return self._started and not self._ended.is_set()


class SimpleQueue(Generic[Item]):
    """Each item wakes one of those that wait."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._items: Any = deque()
        self._takers: deque[_Turn] = deque()

    def put(self, item: Item) -> None:
        self._add(item)
        while self._takers:
            turn = self._takers.popleft()
            if not turn.over:
                return self._clock.wake(turn)

    def get(self, block: bool = True, timeout: float | None = None) -> Item:
        while not self._items:
            self._takers.append(turn := _Turn())
            if not (block and self._clock.wait(turn, timeout)):
                turn.over = True
                raise queue.Empty
        return self._take()

    def get_nowait(self) -> Item:
        return self.get(block=False)

    def qsize(self) -> int:
        return len(self._items)

    def empty(self) -> bool:
        return not self._items

    def _add(self, item: Item) -> None:
        self._items.append(item)

    def _take(self) -> Item:
        item: Item = self._items.popleft()
        return item


class PriorityQueue(SimpleQueue[Item]):
    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._items = []

    def _add(self, item: Item) -> None:
        heapq.heappush(self._items, item)

    def _take(self) -> Item:
        item: Item = heapq.heappop(self._items)
        return item


class Executor:
    """As much of `ThreadPoolExecutor` as is used of it: a thread for each item."""

    def __init__(self, clock: Clock, workers: int) -> None:
        self._clock = clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Every `map` was waited for."""

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        found: dict[int, Result] = {}
        errors: list[BaseException] = []

        def one(index: int, item: Item) -> None:
            try:
                found[index] = work(item)
            except Exception as error:  # raised where the result is asked for
                errors.append(error)

        threads = [Thread(self._clock, one, each) for each in enumerate(items)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return iter([found[index] for index in range(len(threads))])


def threading_on(clock: Clock) -> SimpleNamespace:
    """In the place of the module."""
    return SimpleNamespace(**{kind.__name__: partial(kind, clock) for kind in (Thread, Lock, Condition, Event)})


def queue_on(clock: Clock) -> SimpleNamespace:
    queues = {kind.__name__: partial(kind, clock) for kind in (SimpleQueue, PriorityQueue)}
    return SimpleNamespace(Empty=queue.Empty, **queues)


def time_on(clock: Clock) -> SimpleNamespace:
    import time as real

    return SimpleNamespace(
        monotonic=lambda: clock.now,
        time=lambda: EPOCH_S + clock.now,
        sleep=clock.sleep,
        strftime=real.strftime,
        localtime=real.localtime,
    )
