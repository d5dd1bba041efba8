"""Requests for some checkpoints' weights, asked of several engines that hold them.

Every engine gets its share in one call, which keeps its batch full. An engine that is through with its own, or that
joins later, takes over half of what another has not begun; what an engine that fails had under way is asked of the
others. So nothing is lost and nothing counted twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dft_sweeps.evaluation.evaluate import Answers, Groups
from dft_sweeps.evaluation.generator import Canary, Completion, Request

FEWEST_REQUESTS = 16
"""That are worth an engine, or to be taken over: fewer leave much of its batch empty."""
LOOK_S = 5.0
"""How often help is looked for while engines are at work."""
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
    given: set[Place] = field(default_factory=set)
    """What another engine took over."""
    takers: int = 0
    """Engines that are about to take over some of it."""

    @property
    def kept(self) -> list[Place]:
        return [place for places in self.places.values() for place in places if place not in self.given]


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
        self._changed = threading.Condition()
        self._errors: list[Exception] = []

    def asked_of(self, engines: Sequence[LeasedEngine], look: Callable[[], None]) -> Answers:
        """Completions of all requests, in their order.

        Args:
            engines: hold the weights asked for.
            look: called every `LOOK_S`, to find engines that `help` meanwhile.

        Raises:
            Exception: an engine's error, when all engines have failed.
        """
        self._free = len(engines)
        for engine in engines:
            threading.Thread(target=self._work, args=(engine, True), daemon=True).start()
        while self._wait_for_end(LOOK_S):
            look()
        if self._unasked:
            raise self._errors[-1]
        for error in self._errors:
            self._failed(f"an engine failed, and others took its questions: {error}")
        return self._answers

    def help(self, engine: LeasedEngine) -> None:
        """Lets one more engine that holds the weights take part, until nothing is left for it to begin."""
        with self._changed:
            if not self._shares:
                return
            self._free += 1
        self._work(engine, False)

    def not_begun(self) -> int:
        """The most requests that any one engine has not begun."""
        return max((count for count, _ in self._all_not_begun()), default=0)

    def _wait_for_end(self, seconds: float) -> bool:
        """Whether engines still take part once these have passed."""
        with self._changed:
            if self._shares or self._free:
                self._changed.wait(seconds)
            return bool(self._shares or self._free)

    def _work(self, engine: LeasedEngine, to_the_end: bool) -> None:
        """One engine's part. `to_the_end`: one without work stays, lest another's share comes back."""
        try:
            while (share := self._next(engine, to_the_end)) is not None:
                answers = engine.generate_of(
                    {key: [self._groups[key][number] for _, number in places] for key, places in share.places.items()}
                )
                self._keep(engine, answers)
        except Exception as error:  # whatever an engine, its process or Ray raises ends this engine's part
            self._return(engine, error)
        else:
            with self._changed:
                self._free -= 1
                self._changed.notify_all()

    def _next(self, engine: LeasedEngine, to_the_end: bool) -> _Share | None:
        """What an engine is to be asked next; None once there is nothing."""
        while True:
            with self._changed:
                if self._unasked:
                    count = -(-len(self._unasked) // self._free)
                    places, self._unasked = self._unasked[:count], self._unasked[count:]
                    return self._share(engine, places)
                if not self._shares:
                    return None
            if (share := self._take_over(engine)) or not to_the_end:
                return share
            with self._changed:
                if self._shares:
                    self._changed.wait(WAIT_S)

    def _take_over(self, engine: LeasedEngine) -> _Share | None:
        """Half of what is not begun of the engine that has most of it."""
        count, other = max(self._all_not_begun(), key=lambda found: found[0], default=(0, engine))
        if count < 2 * FEWEST_REQUESTS:
            return None
        with self._changed:
            if (share := self._shares.get(other)) is None:
                return None
            share.takers += 1  # until then its engine's answers are not counted
        try:
            given = [share.places[digest][number] for digest, number in other.give_back(count // 2)]
        except Exception:  # its own thread meets the error and says so
            given = []
        with self._changed:
            share.given.update(given)
            share.takers -= 1
            self._changed.notify_all()
            return self._share(engine, given) if given else None

    def _all_not_begun(self) -> list[tuple[int, LeasedEngine]]:
        with self._changed:
            engines = list(self._shares)
        found = []
        for engine in engines:
            try:
                found.append((engine.not_begun(), engine))
            except Exception:  # as above
                continue
        return found

    def _share(self, engine: LeasedEngine, places: Sequence[Place]) -> _Share:
        by_digest: dict[str, list[Place]] = {}
        for place in sorted(places, key=lambda place: place[1]):
            by_digest.setdefault(place[0], []).append(place)
        self._free -= 1
        self._shares[engine] = share = _Share(by_digest)
        return share

    def _keep(self, engine: LeasedEngine, answers: Answers) -> None:
        with self._changed:
            share = self._settled(engine)
            found = {
                place: completions
                for digest, places in share.places.items()
                for place, completions in zip(places, answers[digest], strict=False)
                if completions
            }
            assert found.keys() == set(share.kept), "the engine left questions out"
            for (digest, number), completions in found.items():
                self._answers[digest][number] = completions
            del self._shares[engine]
            self._free += 1
            self._changed.notify_all()

    def _return(self, engine: LeasedEngine, error: Exception) -> None:
        with self._changed:
            self._errors.append(error)
            self._unasked += self._settled(engine).kept
            del self._shares[engine]
            self._changed.notify_all()

    def _settled(self, engine: LeasedEngine) -> _Share:
        """An engine's share, once nobody is about to take over some of it. The lock is held."""
        share = self._shares[engine]
        while share.takers:
            self._changed.wait()
        return share
