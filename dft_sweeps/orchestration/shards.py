"""Some checkpoints' weights on several leased engines, asked as one: each engine takes shards of the questions in turn.

What an engine that fails had under way is asked of the others, so nothing is lost and nothing counted twice.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from dft_sweeps.evaluation.evaluate import Answers, Groups
from dft_sweeps.evaluation.generator import Canary, Completion, Request

SHARDS_PER_ENGINE = 4
"""So that engines end at about the same time, though answers differ in length."""
FEWEST_REQUESTS = 16
"""Of a shard: fewer leave much of an engine's batch empty."""


def most_shards(requests: int) -> int:
    """How many engines, a shard for each, so many requests keep busy; at least one."""
    return max(1, -(-requests // FEWEST_REQUESTS))


class LeasedEngine(Protocol):
    """An engine that is lent to the caller (`services.lease.Engine`)."""

    def swap(self, directory: str, weights_digest: str, canary: Canary) -> object: ...

    def adapt(self, directory: str, weights_digest: str, canary: Canary) -> object: ...

    def generate_of(self, groups: Mapping[str, Sequence[Request]]) -> Answers: ...

    def release(self) -> None: ...


class _Shard(NamedTuple):
    weights_digest: str
    start: int
    requests: Sequence[Request]


def ask_engines(engines: Sequence[LeasedEngine], groups: Groups, failed: Callable[[str], None]) -> Answers:
    """Completions of all requests, in their order.

    Args:
        engines: all hold the weights asked for.
        failed: told of every failure that other engines make good.

    Raises:
        Exception: an engine's error, when all engines have failed.
    """
    if len(engines) == 1:
        return engines[0].generate_of(groups)
    return _Shards(groups, len(engines), failed).asked_of(engines)


class _Shards:
    def __init__(self, groups: Groups, engines: int, failed: Callable[[str], None]) -> None:
        total = sum(map(len, groups.values()))
        self._waiting = deque(_cut(groups, max(FEWEST_REQUESTS, -(-total // (engines * SHARDS_PER_ENGINE)))))
        self._answers: dict[str, list[Sequence[Completion]]] = {key: [()] * len(all_) for key, all_ in groups.items()}
        self._under_way = 0
        self._changed = threading.Condition()
        self._failed = failed
        self._errors: list[Exception] = []

    def asked_of(self, engines: Sequence[LeasedEngine]) -> Answers:
        threads = [threading.Thread(target=self._work, args=(engine,), daemon=True) for engine in engines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._waiting:
            raise self._errors[-1]
        for error in self._errors:
            self._failed(f"an engine failed, and others took its questions: {error}")
        return self._answers

    def _work(self, engine: LeasedEngine) -> None:
        """One engine's thread."""
        while (shard := self._next()) is not None:
            try:
                answers = engine.generate_of({shard.weights_digest: shard.requests})
                self._keep(shard, answers[shard.weights_digest])
            except Exception as error:  # whatever an engine, its process or Ray raises ends this engine's part
                return self._return(shard, error)

    def _next(self) -> _Shard | None:
        """A shard that waits; None once all are answered. One under way elsewhere may yet come back."""
        with self._changed:
            while not self._waiting and self._under_way:
                self._changed.wait()
            if not self._waiting:
                return None
            self._under_way += 1
            return self._waiting.popleft()

    def _keep(self, shard: _Shard, answers: Sequence[Sequence[Completion]]) -> None:
        assert len(answers) == len(shard.requests), "the engine left questions out"
        with self._changed:
            self._answers[shard.weights_digest][shard.start : shard.start + len(answers)] = answers
            self._under_way -= 1
            self._changed.notify_all()

    def _return(self, shard: _Shard, error: Exception) -> None:
        with self._changed:
            self._errors.append(error)
            self._waiting.append(shard)
            self._under_way -= 1
            self._changed.notify_all()


def _cut(groups: Groups, size: int) -> Iterator[_Shard]:
    for digest, requests in groups.items():
        for start in range(0, len(requests), size):
            yield _Shard(digest, start, requests[start : start + size])
