"""An engine that answers from a script, so that every trial has the accuracy that a test wants."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence

from dft_sweeps.evaluation.benchmarks import Benchmark
from dft_sweeps.evaluation.generator import Canary, Completion, Request
from dft_sweeps.orchestration.prepare import PreparedSweep
from tests.orchestration.scripted_pool import ScriptedPool


class ScoredPool(ScriptedPool):
    """Answers as many of the benchmark's questions, from the first on, as `right` says of the trial whose weights it
    holds; of the base model none. One sample a question.

    Args:
        slow: seconds for an answer.
    """

    def __init__(self, prepared: PreparedSweep, right: Mapping[str, int], slow: float = 0.0) -> None:
        super().__init__()
        from transformers import AutoTokenizer

        [benchmark] = prepared.benchmarks.values()
        assert isinstance(benchmark, Benchmark)
        tokenizer = AutoTokenizer.from_pretrained(prepared.model.directory)
        self._answers = [tuple(tokenizer(f"\\boxed{{{q.answer}}}")["input_ids"]) for q in benchmark.questions]
        self._right, self._slow = right, slow
        self._trial = ""

    def swap(self, directory: str, weights_digest: str, canary: Canary) -> None:
        super().swap(directory, weights_digest, canary)
        found = re.search(r"trials/(t-[0-9a-f]+)/", directory)
        self._trial = found[1] if found else ""

    def generate_of(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[list[Completion]]]:
        time.sleep(self._slow)
        right = self._right.get(self._trial, 0)
        found = {}
        for digest, requests in groups.items():
            assert len(requests) == len(self._answers)
            answers = [*self._answers[:right], *[(7,)] * (len(requests) - right)]
            found[digest] = [[Completion(ids, (-0.5,) * len(ids), "stop")] for ids in answers]
        return found
