"""An engine that answers from a script, so that every trial has the accuracy that a test wants."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence

from dft_sweeps.evaluation.benchmarks import Benchmark
from dft_sweeps.evaluation.generator import Canary, Completion, Request
from dft_sweeps.orchestration.prepare import PreparedSweep
from tests.orchestration.scripted_pool import ScriptedPool


class ScoredPool(ScriptedPool):
    """Answers as many of the benchmark's questions, from the first on, as `right` says of the trial whose weights it
    holds; of the base model none. One sample a question.

    Args:
        turn: whether a trial may be measured now; it waits for that, on one of as many engines as there are trials.
    """

    def __init__(self, prepared: PreparedSweep, right: Mapping[str, int], turn: Callable[[str], bool]) -> None:
        super().__init__(replicas=len(right))
        self.fewest = 1
        from transformers import AutoTokenizer

        [benchmark] = prepared.benchmarks.values()
        assert isinstance(benchmark, Benchmark)
        tokenizer = AutoTokenizer.from_pretrained(prepared.model.directory)
        self._answers = [tuple(tokenizer(f"\\boxed{{{q.answer}}}")["input_ids"]) for q in benchmark.questions]
        self._right, self._turn = right, turn
        self._trial = ""

    def swap(self, directory: str, weights_digest: str, canary: Canary) -> None:
        super().swap(directory, weights_digest, canary)
        found = re.search(r"trials/(t-[0-9a-f]+)/", directory)
        self._trial = found[1] if found else ""

    def generate_of(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[list[Completion]]]:
        deadline = time.monotonic() + 300
        while self._trial and not self._turn(self._trial):
            assert time.monotonic() < deadline, f"{self._trial} waits for its turn"
            time.sleep(0.1)
        right = self._right.get(self._trial, 0)
        found = {}
        for digest, requests in groups.items():
            assert len(requests) == len(self._answers)
            answers = [*self._answers[:right], *[(7,)] * (len(requests) - right)]
            found[digest] = [[Completion(ids, (-0.5,) * len(ids), "stop")] for ids in answers]
        return found
