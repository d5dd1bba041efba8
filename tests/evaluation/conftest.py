"""Shared by the evaluation tests: a real tokenizer, the real benchmark files, a scripted generator."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dft_sweeps.evaluation.generator import Completion, Request

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHARED_BENCHMARKS = Path(__file__).parents[3] / "shared" / "data" / "benchmarks"


class ScriptedGenerator:
    """Answers sample k of request i with `answer(i, k)`; the answer `cut` hits the length limit."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, answer: Callable[[int, int], str], cut: str = "") -> None:
        self.weights_digest = "w" * 64
        self.calls: list[list[Request]] = []
        self._tokenizer = tokenizer
        self._answer = answer
        self._cut = cut

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        self.calls.append(list(requests))
        return [[self._completion(self._answer(i, k)) for k in range(r.n)] for i, r in enumerate(requests)]

    def _completion(self, text: str) -> Completion:
        ids = tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        if text == self._cut:
            return Completion(ids, tuple(-0.5 for _ in ids), "length")
        ids = (*ids, self._tokenizer.eos_token_id)
        return Completion(ids, tuple(-0.25 for _ in ids), "stop")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    from dft_sweeps.data.tokenizer import build_tokenizer

    return build_tokenizer(256)


@pytest.fixture(scope="session")
def scripted() -> type[ScriptedGenerator]:
    return ScriptedGenerator


@pytest.fixture(scope="session")
def shared_benchmarks() -> Path:
    if not SHARED_BENCHMARKS.is_dir():
        message = f"needs the benchmark files at {SHARED_BENCHMARKS}"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return SHARED_BENCHMARKS
