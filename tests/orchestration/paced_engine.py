"""An engine that answers one question after the other, at a pace, in the place of vLLM."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence

from dft_sweeps.evaluation.generator import Canary, Completion, Request
from dft_sweeps.orchestration.shards import Place

FAST, SLOW = 0.0002, 0.005
"""Seconds for an answer."""


class PacedEngine:
    """Answers a prompt with itself, one after the other; dies after `dies_after` answers, once `when` is set."""

    def __init__(self, pace: float = FAST, dies_after: int | None = None, when: threading.Event | None = None) -> None:
        self.calls: list[int] = []
        self.answered = 0
        self._pace, self._dies_after, self._when = pace, dies_after, when
        self._waiting: deque[Place] = deque()
        self._taking = threading.Lock()

    def generate_of(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[list[Completion]]]:
        self.calls.append(sum(map(len, groups.values())))
        answers: dict[str, list[list[Completion]]] = {key: [[] for _ in requests] for key, requests in groups.items()}
        self._waiting.extend((digest, number) for digest, requests in groups.items() for number in range(len(requests)))
        while place := self._next():
            digest, number = place
            time.sleep(self._pace)
            request = groups[digest][number]
            answers[digest][number] = [Completion(request.prompt, (-0.5,) * len(request.prompt), "stop")] * request.n
            self.answered += 1
        return answers

    def _next(self) -> Place | None:
        if self._waiting and self.answered == self._dies_after:
            if self._when:
                self._when.wait(10)
            raise RuntimeError("the engine's process died")
        with self._taking:
            return self._waiting.popleft() if self._waiting else None

    def not_begun(self) -> int:
        return len(self._waiting)

    def give_back(self, count: int) -> list[Place]:
        with self._taking:
            return [self._waiting.pop() for _ in range(min(count, len(self._waiting)))]

    def swap(self, directory: str, weights_digest: str, canary: Canary) -> None:
        """It answers alike with any weights."""

    adapt = swap

    def release(self) -> None:
        """What it has under way ends soon."""
