from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.evaluation.adaptive import look_level, looks
from dft_sweeps.evaluation.benchmarks import Benchmark, load_benchmark
from dft_sweeps.evaluation.evaluate import (
    check_lengths,
    evaluate,
    evaluation_key,
    generate,
    grade,
    longest_prompt,
    question_seed,
    requests,
)
from dft_sweeps.evaluation.generator import Completion, Request
from dft_sweeps.evaluation.grading import GraderPool
from dft_sweeps.evaluation.intervals import interval
from dft_sweeps.evaluation.results import EvaluationKey, macro_average
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import AdaptiveSpec, BenchmarkSpec, SamplingSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BENCHMARK = load_benchmark(BenchmarkSpec(name="arithmetic_1"), Path("/nowhere"))
SAMPLING = SamplingSpec(samples=4, max_new_tokens=64, seed=3)
CUT = "Ones: 3+4="


def answer(question: int, sample: int) -> str:
    """Four samples: the right answer (even questions only), a wrong one, the right one, one that is cut."""
    right = f"done, \\boxed{{{BENCHMARK.questions[question].answer}}}"
    return [right if question % 2 == 0 else "no idea", "\\boxed{-1}", right, CUT][sample]


def test_scripted_answers_give_their_accuracy(tokenizer: PreTrainedTokenizerFast, scripted: type[Any]) -> None:
    generator = scripted(tokenizer, answer, CUT)
    with GraderPool() as graders:
        result = evaluate(generator, BENCHMARK, SAMPLING, Prompts(tokenizer), graders)
    assert result.accuracy == (25 * 2 / 4 + 25 * 1 / 4) / 50
    assert result.interval.mean == result.accuracy
    assert result.interval.low < result.accuracy < result.interval.high
    # Even questions have two right samples against one wrong answer and one without; odd ones have a tie.
    assert (result.samples, result.pass_at_k, result.majority_at_k) == (4, 1.0, 0.75)
    assert result.truncated == 0.25
    assert result.no_answer == 0.25 + 0.125
    assert result.ungradable == 0
    assert len(generator.calls) == 1
    assert [question.question_id for question in result.questions] == [q.id for q in BENCHMARK.questions]
    first, second = result.questions[0].samples, result.questions[1].samples
    assert [sample.verdict.correct for sample in first] == [True, False, True, False]
    assert [sample.verdict.extracted for sample in second] == [
        None,
        "-1",
        BENCHMARK.questions[1].answer,
        None,
    ]
    lengths = [
        len(tokenizer(answer(i, k), add_special_tokens=False)["input_ids"]) + (k != 3)
        for i in range(50)
        for k in range(4)
    ]
    assert result.tokens == sum(lengths)
    assert result.grader == "exact/1"
    assert result.key.weights_digest == generator.weights_digest
    assert result.id.startswith("g-")


def test_completions_keep_everything_and_decode_without_special_tokens(
    tokenizer: PreTrainedTokenizerFast, scripted: type[Any]
) -> None:
    generator = scripted(tokenizer, answer, CUT)
    completions = generate(generator, BENCHMARK, SAMPLING, Prompts(tokenizer))
    assert len(completions.rows) == 200
    for index, row in enumerate(completions.rows):
        question, sample = divmod(index, 4)
        assert (row.question_id, row.sample) == (BENCHMARK.questions[question].id, sample)
        assert row.text == answer(question, sample)
        assert row.seed == generator.calls[0][question].seed + sample
        assert len(row.logprobs) == len(row.token_ids)
        assert row.finish_reason == ("length" if row.text == CUT else "stop")


def test_ungradable_counts_as_wrong_and_is_reported(
    tokenizer: PreTrainedTokenizerFast, scripted: type[Any], tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "q", "answer": 4}\n{"question": "r", "answer": 4}')
    benchmark = load_benchmark(BenchmarkSpec(name="amc23", path="rows.jsonl"), tmp_path)
    texts = ["\\boxed{4}", "\\boxed{1000000000!}"]
    generator = scripted(tokenizer, lambda question, sample: texts[question])
    with GraderPool(timeout_s=1.0) as graders:
        result = evaluate(generator, benchmark, SamplingSpec(max_new_tokens=32), Prompts(tokenizer), graders)
    assert (result.accuracy, result.ungradable, result.no_answer) == (0.5, 1, 0.0)


def test_requests_ask_what_the_sampling_says(tokenizer: PreTrainedTokenizerFast) -> None:
    sampling = SamplingSpec(samples=16, temperature=0.7, top_p=0.9, max_new_tokens=99, seed=5)
    for request, question in zip(requests(BENCHMARK, sampling, Prompts(tokenizer)), BENCHMARK.questions, strict=True):
        assert (request.n, request.temperature, request.top_p, request.max_new_tokens) == (16, 0.7, 0.9, 99)
        assert question.prompt_text in tokenizer.decode(request.prompt)


def test_streams_of_questions_are_disjoint() -> None:
    names = ("gsm8k", "amc23", "arithmetic_1")
    seeds = sorted(
        question_seed(name, str(number), seed) for name in names for number in range(2000) for seed in (0, 1)
    )
    assert all(second - first >= 1024 for first, second in pairwise(seeds))
    assert seeds[0] >= 0
    assert seeds[-1] + 1023 < 2**63
    # They use the whole range: no digest was cut short.
    assert seeds[0] < 2**52
    assert seeds[-1] > 2**63 - 2**52


def test_seed_is_golden() -> None:
    assert question_seed("gsm8k", "1", 0) == 4705216719264351232


def test_checkpoints_share_random_numbers_and_sampling_seeds_do_not(
    tokenizer: PreTrainedTokenizerFast, scripted: type[Any]
) -> None:
    first, second = scripted(tokenizer, answer), scripted(tokenizer, answer)
    second.weights_digest = "v" * 64
    for generator in (first, second):
        generate(generator, BENCHMARK, SAMPLING, Prompts(tokenizer))
    assert first.calls == second.calls
    other = {
        request.seed for request in requests(BENCHMARK, SAMPLING.model_copy(update={"seed": 4}), Prompts(tokenizer))
    }
    assert other.isdisjoint({request.seed for request in first.calls[0]})


def test_a_prompt_that_leaves_no_room_is_refused_by_name(tokenizer: PreTrainedTokenizerFast) -> None:
    lengths = [len(request.prompt) for request in requests(BENCHMARK, SAMPLING, Prompts(tokenizer))]
    longest = max(lengths)
    check_lengths(BENCHMARK, Prompts(tokenizer), context=longest + 1)
    with pytest.raises(SpecError) as caught:
        check_lengths(BENCHMARK, Prompts(tokenizer), context=longest)
    assert f"a prompt of {longest} tokens leaves no room for an answer in a context of {longest}" in str(caught.value)
    assert f"question {BENCHMARK.questions[lengths.index(longest)].id!r}" in str(caught.value)


def test_a_context_cuts_completions_off_and_is_part_of_the_identity_where_it_does(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    prompts = Prompts(tokenizer)
    longest = longest_prompt(BENCHMARK, prompts)

    def key(context: int | None) -> EvaluationKey:
        return evaluation_key("w", BENCHMARK, SAMPLING.model_copy(update={"context": context}), prompts)

    assert key(longest + SAMPLING.max_new_tokens) == key(None)
    tight = longest + SAMPLING.max_new_tokens - 1
    assert key(tight).id != key(None).id
    asked = requests(BENCHMARK, key(tight).sampling, prompts)
    assert all(len(each.prompt) + each.max_new_tokens <= tight for each in asked)
    assert min(each.max_new_tokens for each in asked) == SAMPLING.max_new_tokens - 1
    assert max(each.max_new_tokens for each in asked) == SAMPLING.max_new_tokens


def adaptive(half_width: float, samples: int = 16) -> SamplingSpec:
    return SAMPLING.model_copy(update={"samples": samples, "adaptive": AdaptiveSpec(half_width=half_width)})


def right_or_wrong(index: int, sample: int) -> str:
    """Right or wrong by a coin that depends on question and sample alone."""
    right = hashlib.sha256(f"{index} {sample}".encode()).digest()[0] % 2
    return f"\boxed{{{BENCHMARK.questions[index].answer if right else 'wrong'}}}"


class BySeed:
    """A generator whose sample k of a question is the same whichever request asks for it, as an engine's is."""

    def __init__(self, scripted: type[Any], tokenizer: PreTrainedTokenizerFast) -> None:
        self.firsts = {request.prompt: request.seed for request in requests(BENCHMARK, SAMPLING, Prompts(tokenizer))}
        self.order = list(self.firsts)
        self.scripted = scripted(tokenizer, right_or_wrong)
        self.weights_digest = self.scripted.weights_digest
        self.asked: list[int] = []

    def generate(self, asked: Sequence[Request]) -> list[list[Completion]]:
        self.asked += [request.n for request in asked]
        return [self._samples(request) for request in asked]

    def _samples(self, request: Request) -> list[Completion]:
        index, first = self.order.index(request.prompt), request.seed - self.firsts[request.prompt]
        texts = (right_or_wrong(index, sample) for sample in range(first, first + request.n))
        return [self.scripted._completion(text) for text in texts]


@pytest.mark.parametrize(("half_width", "least", "most"), [(0.5, 16, 16), (8.0, 2, 12), (49.0, 1, 1)])
def test_adaptive_sampling_ends_when_the_interval_is_narrow_enough(
    tokenizer: PreTrainedTokenizerFast, scripted: type[Any], half_width: float, least: int, most: int
) -> None:
    generator, sampling = BySeed(scripted, tokenizer), adaptive(half_width)
    with GraderPool() as graders:
        result = evaluate(generator, BENCHMARK, sampling, Prompts(tokenizer), graders)
    assert least <= result.samples <= most
    assert sum(generator.asked) == result.samples * len(BENCHMARK.questions)
    assert result.saved == 1 - result.samples / 16
    if result.samples < 16:
        assert 100 * result.fixed_interval.half_width <= half_width
        earlier = [row[: looks(16)[looks(16).index(result.samples) - 1]] for row in result.correct]
        level = look_level(looks(16))
        assert result.samples == 1 or 100 * interval(earlier, level, "fixed_list").half_width > half_width


def test_the_samples_of_an_adaptive_evaluation_are_the_first_of_a_fixed_one(
    tokenizer: PreTrainedTokenizerFast, scripted: type[Any]
) -> None:
    fixed = SAMPLING.model_copy(update={"samples": 16})
    with GraderPool() as graders:
        some = evaluate(BySeed(scripted, tokenizer), BENCHMARK, adaptive(8.0), Prompts(tokenizer), graders)
        whole = evaluate(BySeed(scripted, tokenizer), BENCHMARK, fixed, Prompts(tokenizer), graders)
    assert 1 < some.samples < 16
    assert some.correct == [row[: some.samples] for row in whole.correct]
    assert some.key.id != whole.key.id
    # Narrower at the same samples, were it not for the looks in between.
    assert some.interval.half_width > interval(some.correct).half_width


def test_changed_weights_and_missing_completions_are_noticed(
    tokenizer: PreTrainedTokenizerFast, scripted: type[Any]
) -> None:
    class Swapping(scripted):
        def generate(self, requests: Any) -> Any:
            self.weights_digest = "other"
            return super().generate(requests)

    class Losing(scripted):
        def generate(self, requests: Any) -> Any:
            return [completions[:-1] for completions in super().generate(requests)]

    with pytest.raises(AssertionError, match="changed its weights"):
        generate(Swapping(tokenizer, answer), BENCHMARK, SAMPLING, Prompts(tokenizer))
    with pytest.raises(AssertionError, match="not 4 completions of every question"):
        generate(Losing(tokenizer, answer), BENCHMARK, SAMPLING, Prompts(tokenizer))


def test_completions_of_another_benchmark_are_not_graded(
    tokenizer: PreTrainedTokenizerFast, scripted: type[Any]
) -> None:
    completions = generate(scripted(tokenizer, answer), BENCHMARK, SAMPLING, Prompts(tokenizer))
    other: Benchmark = load_benchmark(BenchmarkSpec(name="arithmetic_2"), Path("/nowhere"))
    with GraderPool() as graders, pytest.raises(AssertionError, match="another benchmark"):
        grade(completions, other, graders)


def test_macro_average_weighs_benchmarks_equally(tokenizer: PreTrainedTokenizerFast, scripted: type[Any]) -> None:
    few = load_benchmark(BenchmarkSpec(name="arithmetic_1", limit=10), Path("/nowhere"))
    with GraderPool() as graders:
        all_right = evaluate(
            scripted(tokenizer, lambda i, k: f"\\boxed{{{BENCHMARK.questions[i].answer}}}"),
            few,
            SAMPLING,
            Prompts(tokenizer),
            graders,
        )
        none_right = evaluate(scripted(tokenizer, lambda i, k: ""), BENCHMARK, SAMPLING, Prompts(tokenizer), graders)
    average = macro_average([all_right, none_right])
    assert (all_right.accuracy, none_right.accuracy, average.mean) == (1.0, 0.0, 0.5)
    assert all_right.limited
    assert not none_right.limited
    assert average.low == pytest.approx(0.5 - (1 - all_right.interval.low) / 2)
    assert average.high == pytest.approx(0.5 + none_right.interval.high / 2)
