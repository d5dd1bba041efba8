"""An evaluation engine that answers from a script, in the place of vLLM."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from dft_sweeps.evaluation.generator import Canary, Completion, Request


class ScriptedPool:
    """One engine that answers every prompt with one token, after `gate` opens; its first `failures` swaps fail."""

    def __init__(self, failures: int = 0, replicas: int = 1, adapters: int = 0) -> None:
        self.adapters = adapters
        self.replicas = self.fewest = replicas
        self.asked, self.gate = threading.Event(), threading.Event()
        self.failures = failures
        self.swaps: list[str] = []
        self.adapted: list[str] = []
        self.groups: list[set[str]] = []
        """Digests that were asked together, call by call."""
        self.weights_digest = ""

    @contextmanager
    def lease(self, wait_s: float | None = None) -> Iterator[ScriptedPool]:
        self.asked.set()
        self.gate.wait(10)
        yield self

    def swap(self, directory: str, weights_digest: str, canary: Canary) -> None:
        self.swaps.append(directory)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the engine's process died")
        self.weights_digest = weights_digest

    def adapt(self, directory: str, weights_digest: str, canary: Canary) -> None:
        self.adapted.append(directory)

    def release(self) -> None:
        pass

    def generate_of(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[list[Completion]]]:
        self.groups.append(set(groups))
        answer = Completion((7,), (-0.5,), "length")
        return {digest: [[answer] * request.n for request in requests] for digest, requests in groups.items()}
