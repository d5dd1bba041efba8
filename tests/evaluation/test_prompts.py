from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dft_sweeps.data.encode import encode
from dft_sweeps.data.sources import Demonstration
from dft_sweeps.data.tokenizer import build_tokenizer
from dft_sweeps.evaluation.benchmarks import load_benchmark
from dft_sweeps.evaluation.prompts import render, template_digest
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import ArithmeticSource, BenchmarkSpec, DataSpec

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast


def test_prompt_is_the_chat_template_up_to_the_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = render(tokenizer, "What is 12+34?")
    assert tokenizer.decode(ids) == "<|im_start|>user\nWhat is 12+34?<|im_end|>\n<|im_start|>assistant\n"


def test_embedded_prompts_are_those_of_training(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    question = load_benchmark(BenchmarkSpec(name="arithmetic_2"), tmp_path).questions[0].prompt_text
    data = DataSpec(source=ArithmeticSource(kind="arithmetic", samples=1))
    sample = encode([Demonstration(question, "done")], data, tokenizer)[0]
    assert render(tokenizer, question) == sample.ids[: sample.prompt_length]


def test_template_digest_follows_template_and_vocabulary(tokenizer: PreTrainedTokenizerFast) -> None:
    same, other_template, other_vocabulary = (build_tokenizer(max_length=512) for _ in range(3))
    assert template_digest(same) == template_digest(tokenizer)
    other_template.chat_template = other_template.chat_template.replace("assistant", "solver")
    other_vocabulary.add_tokens(["What is"])
    assert len({template_digest(each) for each in (tokenizer, other_template, other_vocabulary)}) == 3


def test_tokenizer_without_chat_template_is_refused() -> None:
    bare = build_tokenizer(max_length=512)
    bare.chat_template = None
    for use in (lambda: render(bare, "q"), lambda: template_digest(bare)):
        with pytest.raises(SpecError, match="no chat template"):
            use()
