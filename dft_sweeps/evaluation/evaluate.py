"""Evaluation of one checkpoint on one benchmark: render, generate, decode, grade.

`evaluate` is `generate` followed by `grade`; the two are apart so that stored completions can be graded again.
Adaptive samplings are generated in rounds, between which they are graded.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.evaluation.adaptive import looks, next_round
from dft_sweeps.evaluation.benchmarks import Benchmark, Question
from dft_sweeps.evaluation.generator import Completion, Generator, Request
from dft_sweeps.evaluation.grading import GraderPool, grader_version
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

_MOST_SAMPLES = 1024
"""The bound of `SamplingSpec.samples`: seeds of two questions lie at least this far apart."""


def evaluate(
    generator: Generator,
    benchmark: Benchmark,
    sampling: SamplingSpec,
    prompts: Prompts,
    graders: GraderPool,
) -> BenchmarkResult:
    """Samples every question of a benchmark from the generator's weights and grades the completions.

    The entry for notebooks and scripts; a sweep calls `generate_all` and `grade`, with a store between them.
    """
    [completions] = generate_all(generator, [(benchmark, sampling)], prompts, graders)
    return grade(completions, benchmark, graders)


def generate(generator: Generator, benchmark: Benchmark, sampling: SamplingSpec, prompts: Prompts) -> Completions:
    """Samples every question of a benchmark, not adaptively, for notebooks and scripts that keep completions to grade
    them later."""
    [completions] = generate_all(generator, [(benchmark, sampling)], prompts)
    return completions


@dataclass(frozen=True)
class Task:
    """A benchmark to be asked of some weights."""

    weights_digest: str
    benchmark: Benchmark
    sampling: SamplingSpec


Groups = Mapping[str, Sequence[Request]]
"""Requests by the digest of the weights they are for."""
Answers = Mapping[str, Sequence[Sequence[Completion]]]


def generate_all(
    generator: Generator,
    pairs: Sequence[tuple[Benchmark, SamplingSpec]],
    prompts: Prompts,
    graders: GraderPool | None = None,
) -> list[Completions]:
    """Samples several benchmarks from the generator's weights (see `generate_tasks`)."""
    weights = generator.weights_digest

    def ask(groups: Groups) -> Answers:
        answers = generator.generate(groups[weights])
        assert generator.weights_digest == weights, "the generator changed its weights while it sampled"
        return {weights: answers}

    return generate_tasks(ask, [Task(weights, *pair) for pair in pairs], prompts, graders)


def generate_tasks(
    ask: Callable[[Groups], Answers], tasks: Sequence[Task], prompts: Prompts, graders: GraderPool | None = None
) -> list[Completions]:
    """Samples several benchmarks, of one or several weights, in one call of `ask`, which keeps batches full to the end.

    Adaptive ones are asked for further samples, in further calls, until each one's accuracy is known closely enough
    by its own grader; only they need `graders`.
    """
    found = [Completions(evaluation_key(t.weights_digest, t.benchmark, t.sampling, prompts), ()) for t in tasks]
    wanted = [_first_round(task.sampling) for task in tasks]
    while any(wanted):
        asked = [
            requests(task.benchmark, task.sampling, prompts, range(have.samples, have.samples + more)) if more else []
            for task, have, more in zip(tasks, found, wanted, strict=True)
        ]
        groups: dict[str, list[Request]] = {}
        for task, batch in zip(tasks, asked, strict=True):
            groups.setdefault(task.weights_digest, []).extend(batch)
        answers = ask({weights: batch for weights, batch in groups.items() if batch})
        rest = {weights: iter(completions) for weights, completions in answers.items()}
        for index, (task, batch, more) in enumerate(zip(tasks, asked, wanted, strict=True)):
            if more:
                fresh = list(itertools.islice(rest[task.weights_digest], len(batch)))
                assert len(fresh) == len(batch), "the generator left questions out"
                assert all(len(each) == more for each in fresh), f"not {more} completions of every question"
                found[index] = _joined(found[index], task.benchmark, fresh, prompts)
                wanted[index] = _further(found[index], task.benchmark, graders)
    return found


def _first_round(sampling: SamplingSpec) -> int:
    """Samples of every question to begin with."""
    return sampling.samples if sampling.adaptive is None else looks(sampling.samples)[0]


def _further(completions: Completions, benchmark: Benchmark, graders: GraderPool | None) -> int:
    """How many more samples every question needs."""
    sampling = completions.key.sampling
    if sampling.adaptive is None:
        return 0
    assert graders is not None, "adaptive sampling needs graders"
    correct = grade(completions, benchmark, graders).correct
    return next_round(correct, sampling.adaptive.half_width / 100, sampling.samples).more[0]


def _joined(
    before: Completions, benchmark: Benchmark, fresh: Sequence[Sequence[Completion]], prompts: Prompts
) -> Completions:
    """Completions with a round of further ones, question by question."""
    have, rows = before.samples, []
    for index, (question, completions) in enumerate(zip(benchmark.questions, fresh, strict=True)):
        rows += before.rows[index * have : (index + 1) * have]
        rows += _rows(benchmark, question, before.key.sampling.seed, have, completions, prompts)
    return Completions(before.key, tuple(rows))


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


def evaluation_key(
    weights_digest: str, benchmark: Benchmark, sampling: SamplingSpec, prompts: Prompts
) -> EvaluationKey:
    """The identity of an evaluation that may be to come. A context that cuts nothing off is no part of it."""
    if (
        sampling.context is not None
        and longest_prompt(benchmark, prompts) + sampling.max_new_tokens <= sampling.context
    ):
        sampling = sampling.model_copy(update={"context": None})
    return EvaluationKey(weights_digest, benchmark.name, benchmark.digest, prompts.full_digest, sampling)


def requests(
    benchmark: Benchmark, sampling: SamplingSpec, prompts: Prompts, samples: range | None = None
) -> list[Request]:
    """What a generator is asked for: one request per question, in the benchmark's order.

    Args:
        samples: which of a question's samples; by default all of them.
    """
    wanted = range(sampling.samples) if samples is None else samples
    asked = []
    for question in benchmark.questions:
        prompt = prompts.ids(question.prompt_text)
        room = sampling.max_new_tokens if sampling.context is None else sampling.context - len(prompt)
        asked.append(
            Request(
                prompt=prompt,
                n=len(wanted),
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_new_tokens=min(sampling.max_new_tokens, room),
                seed=question_seed(benchmark.name, question.id, sampling.seed) + wanted.start,
            )
        )
    return asked


def longest_prompt(benchmark: Benchmark, prompts: Prompts) -> int:
    """Tokens of the longest prompt of a benchmark."""
    return max(len(prompts.ids(question.prompt_text)) for question in benchmark.questions)


def check_lengths(benchmark: Benchmark, prompts: Prompts, context: int) -> None:
    """Refuses a benchmark with a prompt that leaves no room for an answer in `context` tokens.

    Raises:
        SpecError: names the question.
    """
    for question in benchmark.questions:
        length = len(prompts.ids(question.prompt_text))
        if length >= context:
            raise SpecError(
                f"benchmark {benchmark.name!r}, question {question.id!r}: a prompt of {length} tokens leaves no room "
                f"for an answer in a context of {context}; raise pool.max_model_len, or leave the question out"
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
    seed: int,
    start: int,
    completions: Sequence[Completion],
    prompts: Prompts,
) -> list[CompletionRow]:
    """Samples of a question from number `start` on."""
    seed = question_seed(benchmark.name, question.id, seed)
    texts = prompts.decode([each.token_ids for each in completions])
    return [
        CompletionRow(
            question_id=question.id,
            sample=sample,
            seed=seed + sample,
            prompt_hash=prompt_hash(question),
            text=text,
            token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            finish_reason=completion.finish_reason,
        )
        for sample, (completion, text) in enumerate(zip(completions, texts, strict=True), start=start)
    ]
