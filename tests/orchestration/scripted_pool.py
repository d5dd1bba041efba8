"""An evaluation engine that answers from a script, in the place of vLLM."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from itertools import repeat

from dft_sweeps.evaluation.generator import Canary, Completion, Request


class ScriptedPool:
    """Engines that answer every prompt with one token, after `gate` opens; the first `failures` swaps fail."""

    def __init__(self, failures: int = 0, replicas: int = 1, adapters: int = 0) -> None:
        self.adapters = adapters
        self.replicas = self.fewest = replicas
        self.asked, self.gate = threading.Event(), threading.Event()
        self._failures = repeat(None, failures)
        self.swaps: list[str] = []
        self.adapted: list[str] = []
        self.groups: list[set[str]] = []
        """Digests that were asked together, call by call."""
        self.weights_digest = ""

    @contextmanager
    def lease(self, wait_s: float | None = None) -> Iterator[ScriptedPool]:
        self.asked.set()
        self.gate.wait(10)
        yield copy(self)  # an engine of its own, with weights of its own

    def swap(self, directory: str, weights_digest: str, canary: Canary) -> None:
        self.swaps.append(directory)
        for _ in self._failures:
            raise RuntimeError("the engine's process died")
        self.weights_digest = weights_digest

    def adapt(self, directory: str, weights_digest: str, canary: Canary) -> None:
        self.adapted.append(directory)

    def release(self) -> None:
        pass

    def not_begun(self) -> int:
        return 0

    def give_back(self, count: int) -> list[tuple[str, int]]:
        return []

    def generate_of(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[list[Completion]]]:
        self.groups.append(set(groups))
        answer = Completion((7,), (-0.5,), "length")
        return {digest: [[answer] * request.n for request in requests] for digest, requests in groups.items()}
