"""Evaluation of one checkpoint on one benchmark: render, generate, decode, grade.

`evaluate` is `generate` followed by `grade`; the two are apart so that stored completions can be graded
again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dft_sweeps.evaluation.benchmarks import Benchmark, Question
from dft_sweeps.evaluation.generator import Completion, Generator, Request
from dft_sweeps.evaluation.grading import GraderPool, grader_version
from dft_sweeps.evaluation.prompts import render, template_digest
from dft_sweeps.evaluation.results import (
    BenchmarkResult,
    CompletionRow,
    Completions,
    EvaluationKey,
    GradedQuestion,
    GradedSample,
)
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import SamplingSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MOST_SAMPLES = 1024
"""The bound of `SamplingSpec.samples`: seeds of two questions lie at least this far apart."""


def evaluate(
    generator: Generator,
    benchmark: Benchmark,
    sampling: SamplingSpec,
    tokenizer: PreTrainedTokenizerBase,
    graders: GraderPool,
) -> BenchmarkResult:
    """Samples every question of a benchmark from the generator's weights and grades the completions.

    The entry for notebooks and scripts; a sweep calls `generate_all` and `grade`, with a store between them.
    """
    return grade(generate(generator, benchmark, sampling, tokenizer), benchmark, graders)


def generate(
    generator: Generator, benchmark: Benchmark, sampling: SamplingSpec, tokenizer: PreTrainedTokenizerBase
) -> Completions:
    """Samples every question of a benchmark, for notebooks and scripts that keep completions to grade them later."""
    [completions] = generate_all(generator, [(benchmark, sampling)], tokenizer)
    return completions


def generate_all(
    generator: Generator, pairs: Sequence[tuple[Benchmark, SamplingSpec]], tokenizer: PreTrainedTokenizerBase
) -> list[Completions]:
    """Samples several benchmarks in one call to the generator, which keeps its batches full to the end."""
    weights = generator.weights_digest
    asked = [requests(benchmark, sampling, tokenizer) for benchmark, sampling in pairs]
    answers = generator.generate([request for batch in asked for request in batch])
    assert generator.weights_digest == weights, "the generator changed its weights while it sampled"
    assert len(answers) == sum(map(len, asked)), "the generator left questions out"
    answer, template, found = iter(answers), template_digest(tokenizer), []
    for benchmark, sampling in pairs:
        key = evaluation_key(weights, benchmark, template, sampling)
        rows = [
            row
            for question in benchmark.questions
            for row in _rows(benchmark, question, sampling, next(answer), tokenizer)
        ]
        found.append(Completions(key, tuple(rows)))
    return found


def grade(
    completions: Completions, benchmark: Benchmark, graders: GraderPool, grader: str | None = None
) -> BenchmarkResult:
    """Verdicts of a grader, by default the benchmark's own, on completions of that benchmark."""
    grader = grader or benchmark.grader
    assert completions.key.benchmark_digest == benchmark.digest, "completions of another benchmark"
    question_of = {question.id: question for question in benchmark.questions}
    items = [(question_of[row.question_id].gold, row.text) for row in completions.rows]
    verdicts = graders.grade(items, grader)
    samples: dict[str, list[GradedSample]] = {question.id: [] for question in benchmark.questions}
    for row, verdict in zip(completions.rows, verdicts, strict=True):
        samples[row.question_id].append(GradedSample(verdict, row.finish_reason, len(row.token_ids)))
    questions = tuple(GradedQuestion(id_, question_of[id_].answer, tuple(graded)) for id_, graded in samples.items())
    return BenchmarkResult(completions.key, grader_version(grader), benchmark.limited, questions)


def evaluation_key(weights_digest: str, benchmark: Benchmark, template: str, sampling: SamplingSpec) -> EvaluationKey:
    """The identity of an evaluation that may not have happened yet."""
    return EvaluationKey(weights_digest, benchmark.name, benchmark.digest, template, sampling)


def requests(benchmark: Benchmark, sampling: SamplingSpec, tokenizer: PreTrainedTokenizerBase) -> list[Request]:
    """What a generator is asked for: one request per question, in the benchmark's order."""
    return [
        Request(
            prompt=render(tokenizer, question.prompt_text),
            n=sampling.samples,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_new_tokens=sampling.max_new_tokens,
            seed=question_seed(benchmark.name, question.id, sampling.seed),
        )
        for question in benchmark.questions
    ]


def check_lengths(
    benchmark: Benchmark, sampling: SamplingSpec, tokenizer: PreTrainedTokenizerBase, max_model_len: int
) -> None:
    """Refuses a benchmark whose prompts leave no room for `max_new_tokens` in a context of `max_model_len`.

    Raises:
        SpecError: names the longest prompt and the largest `max_new_tokens` that fits.
    """
    lengths = {question.id: len(render(tokenizer, question.prompt_text)) for question in benchmark.questions}
    longest = max(lengths, key=lambda id_: lengths[id_])
    room = max_model_len - lengths[longest]
    if sampling.max_new_tokens > room:
        fits = f"at most {room} new tokens fit" if room > 0 else "the prompt alone does not fit"
        raise SpecError(
            f"benchmark {benchmark.name!r}, question {longest!r}: a prompt of {lengths[longest]} tokens and "
            f"max_new_tokens {sampling.max_new_tokens} exceed max_model_len {max_model_len} ({fits})"
        )


def question_seed(benchmark: str, question_id: str, seed: int) -> int:
    """Seed of a question's first completion; completion i has this plus i.

    The same for every checkpoint, so that checkpoints are compared under common random numbers. Seeds are
    hashed into 63 bits and are multiples of 1024, the most samples a question can have, so streams never
    partly overlap.
    """
    hashed = hashlib.sha256("\0".join((benchmark, question_id, str(seed))).encode()).digest()
    return (int.from_bytes(hashed[:8], "big") >> 1) // _MOST_SAMPLES * _MOST_SAMPLES


def prompt_hash(question: Question) -> str:
    """SHA-256 of the user's turn of a question."""
    return hashlib.sha256(question.prompt_text.encode()).hexdigest()


def _rows(
    benchmark: Benchmark,
    question: Question,
    sampling: SamplingSpec,
    completions: Sequence[Completion],
    tokenizer: PreTrainedTokenizerBase,
) -> list[CompletionRow]:
    assert len(completions) == sampling.samples, f"{len(completions)} completions instead of {sampling.samples}"
    seed = question_seed(benchmark.name, question.id, sampling.seed)
    texts = tokenizer.batch_decode([list(each.token_ids) for each in completions], skip_special_tokens=True)
    return [
        CompletionRow(
            question_id=question.id,
            sample=index,
            seed=seed + index,
            prompt_hash=prompt_hash(question),
            text=text,
            token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            finish_reason=completion.finish_reason,
        )
        for index, (completion, text) in enumerate(zip(completions, texts, strict=True))
    ]
