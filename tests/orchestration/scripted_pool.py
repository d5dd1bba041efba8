"""An evaluation engine that answers from a script, in the place of vLLM."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dft_sweeps.evaluation.generator import Canary, Completion, Request


class ScriptedPool:
    """One engine that answers every prompt with one token, after `gate` opens; its first `failures` swaps fail."""

    replicas = 1

    def __init__(self, failures: int = 0) -> None:
        self.asked, self.gate = threading.Event(), threading.Event()
        self.failures = failures
        self.swaps: list[str] = []
        self.weights_digest = ""

    @contextmanager
    def lease(self) -> Iterator[ScriptedPool]:
        self.asked.set()
        self.gate.wait(10)
        yield self

    def swap(self, directory: str, weights_digest: str, canary: Canary) -> None:
        self.swaps.append(directory)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the engine's process died")
        self.weights_digest = weights_digest

    def release(self) -> None:
        pass

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        return [[Completion((7,), (-0.5,), "length")] * request.n for request in requests]
