"""Requests for some checkpoints' weights, asked of several engines that hold them.

Every engine gets its share in one call, which keeps its batch full. An engine that is through with its own, or that
joins later, takes over half of what another has not begun; what an engine that fails had under way is asked of the
others. So nothing is lost and nothing counted twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from dft_sweeps.evaluation.evaluate import Answers, Groups
from dft_sweeps.evaluation.generator import Canary, Completion, Request

FEWEST_REQUESTS = 16
"""That are worth an engine, or to be taken over: fewer leave much of its batch empty."""
LOOK_S = 5.0
"""How often more engines are looked for while some are at work."""
WAIT_S = 1.0
"""How long an engine without work waits before it asks the others again."""

Place = tuple[str, int]
"""Of a request: the digest that it is for, and its number among those."""


def most_engines(requests: int) -> int:
    """How many engines so many requests keep busy; at least one."""
    return max(1, -(-requests // FEWEST_REQUESTS))


class LeasedEngine(Protocol):
    """An engine that is lent to the caller (`services.lease.Engine`)."""

    def swap(self, directory: str, weights_digest: str, canary: Canary) -> object: ...

    def adapt(self, directory: str, weights_digest: str, canary: Canary) -> object: ...

    def generate_of(self, groups: Mapping[str, Sequence[Request]]) -> Answers:
        """Without completions for what was given back meanwhile."""

    def not_begun(self) -> int:
        """Requests of the generation under way that can be given back."""

    def give_back(self, count: int) -> Sequence[Place]:
        """Takes the last requests that are not begun, so many at most, out of the generation under way."""

    def release(self) -> None: ...


@dataclass
class _Share:
    """What one engine was asked for."""

    places: dict[str, list[Place]]
    """By digest, in the order of the call."""
    settled: set[Place] = field(default_factory=set)
    """What it has answered, or another engine has taken over."""
    takers: int = 0
    """Engines that are about to take over some of it."""

    @property
    def left(self) -> list[Place]:
        return [place for places in self.places.values() for place in places if place not in self.settled]


class Shards:
    """Requests that are shared by engines.

    Args:
        failed: told of every failure that other engines make good.
    """

    def __init__(self, groups: Groups, failed: Callable[[str], None]) -> None:
        self._groups, self._failed = groups, failed
        self._unasked = [(digest, number) for digest, requests in groups.items() for number in range(len(requests))]
        self._answers: dict[str, list[Sequence[Completion]]] = {key: [()] * len(all_) for key, all_ in groups.items()}
        self._shares: dict[LeasedEngine, _Share] = {}
        """Of the engines that are at work."""
        self._free = 0
        """Engines that take part and are not at work."""
        self._coming = 0
        """Engines that may soon take part."""
        self._changed = threading.Condition()
        self._errors: list[Exception] = []

    def asked_of(self, engines: Sequence[LeasedEngine], look: Callable[[], None]) -> Answers:
        """Completions of all requests, in their order.

        Args:
            engines: hold the weights asked for.
            look: called every `LOOK_S`, to `find_help`.

        Raises:
            Exception: an engine's error, when all engines have failed.
        """
        self._free = len(engines)
        for engine in engines:
            threading.Thread(target=self._work, args=(engine,), daemon=True).start()
        while not self._ended(LOOK_S):
            look()
        if self._unasked:
            raise self._errors[-1]
        for error in self._errors:
            self._failed(f"an engine failed, and others took its questions: {error}")
        return self._answers

    def find_help(self, lease: Callable[[], AbstractContextManager[LeasedEngine]], wanted: Callable[[], bool]) -> None:
        """Lets one more engine take part, in a thread of its own, if there is enough to begin for all that may come
        and no engine has failed: the next might fail of the same questions.

        Args:
            lease: lends an engine that holds the weights; raises TimeoutError where none is free.
            wanted: whether others want the engine. It then leaves once it is through with its share.
        """
        enough = 2 * FEWEST_REQUESTS * (1 + self._coming)
        if not self._errors and max(len(self._unasked), self._most_not_begun()[0]) >= enough:
            with self._changed:
                self._coming += 1
            threading.Thread(target=self._helped, args=(lease, wanted), name="helping engine", daemon=True).start()

    def _helped(self, lease: Callable[[], AbstractContextManager[LeasedEngine]], wanted: Callable[[], bool]) -> None:
        came = False
        try:
            with lease() as engine:
                came = True
                if self._takes_in():
                    self._work(engine, wanted)
        except TimeoutError:
            pass
        except Exception as error:  # whatever an engine, its process or Ray raises: the others go on without it
            self._errors.append(error)
        if not came:
            with self._changed:
                self._coming -= 1

    def _takes_in(self) -> bool:
        """Counts one more engine in, unless all have ended."""
        with self._changed:
            self._coming -= 1
            here = bool(self._shares or self._free)
            self._free += here
            return here

    def _ended(self, seconds: float) -> bool:
        """Whether no engine takes part any more; waits for that for so many seconds."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while (self._shares or self._free) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return not (self._shares or self._free)

    def _work(self, engine: LeasedEngine, wanted: Callable[[], bool] | None = None) -> None:
        """One engine's part: to the end or, for one that helps, until it is wanted or there is nothing to begin."""
        try:
            while (share := self._next(engine, wanted)) is not None:
                answers = engine.generate_of(
                    {key: [self._groups[key][number] for _, number in places] for key, places in share.places.items()}
                )
                self._keep(engine, answers)
        except Exception as error:  # whatever an engine, its process or Ray raises ends this engine's part
            self._return(engine, error)

    def _next(self, engine: LeasedEngine, wanted: Callable[[], bool] | None) -> _Share | None:
        """What an engine is to be asked next; None for one that takes part no longer. One that does not help stays
        while others are at work, lest their shares come back."""
        leaves = False
        while True:
            with self._changed:
                if self._unasked:
                    count = -(-len(self._unasked) // self._free)
                    places, self._unasked = self._unasked[:count], self._unasked[count:]
                    return self._share(engine, places)
                if leaves or not self._shares or (wanted is not None and wanted()):
                    self._free -= 1
                    self._changed.notify_all()
                    return None
            count, other = self._most_not_begun()
            if count < 2 * FEWEST_REQUESTS:
                leaves = wanted is not None
            elif share := self._take_over(engine, other, count // 2):
                return share
            with self._changed:
                if self._shares and not self._unasked and not leaves:
                    self._changed.wait(WAIT_S)

    def _most_not_begun(self) -> tuple[int, LeasedEngine | None]:
        """The engine with the most requests that it has not begun, and their number."""
        with self._changed:
            engines = list(self._shares)
        most: tuple[int, LeasedEngine | None] = 0, None
        for engine in engines:
            with suppress(Exception):  # its own thread meets the error and says so
                most = max(most, (engine.not_begun(), engine), key=lambda found: found[0])
        return most

    def _take_over(self, engine: LeasedEngine, other: LeasedEngine | None, count: int) -> _Share | None:
        """So much of what another has not begun."""
        with self._changed:
            if other is None or (share := self._shares.get(other)) is None:
                return None
            share.takers += 1  # until then its engine's answers are not counted
        try:
            taken = [share.places[digest][number] for digest, number in other.give_back(count)]
        except Exception:  # as above
            taken = []
        with self._changed:
            share.settled.update(taken)
            share.takers -= 1
            self._changed.notify_all()
            return self._share(engine, taken) if taken else None

    def _share(self, engine: LeasedEngine, places: Sequence[Place]) -> _Share:
        by_digest: dict[str, list[Place]] = {}
        for place in sorted(places, key=lambda place: place[1]):
            by_digest.setdefault(place[0], []).append(place)
        self._free -= 1
        self._shares[engine] = share = _Share(by_digest)
        return share

    def _keep(self, engine: LeasedEngine, answers: Answers) -> None:
        with self._changed:
            share = self._untouched(engine)
            for digest, places in share.places.items():
                for place, completions in zip(places, answers[digest], strict=False):
                    if completions and place not in share.settled:
                        self._answers[digest][place[1]] = completions
                        share.settled.add(place)
            assert not share.left, "the engine left questions out"
            del self._shares[engine]
            self._free += 1
            self._changed.notify_all()

    def _return(self, engine: LeasedEngine, error: Exception) -> None:
        with self._changed:
            self._errors.append(error)
            self._unasked += self._untouched(engine).left
            del self._shares[engine]
            self._changed.notify_all()

    def _untouched(self, engine: LeasedEngine) -> _Share:
        """An engine's share, once nobody is about to take over some of it. The lock is held."""
        share = self._shares[engine]
        while share.takers:
            self._changed.wait()
        return share
