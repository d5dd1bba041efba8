"""Checkpoints on their own, on engines that answer from a script: what is found, what is generated, what is proved by.

The real engine is in tests/cli/test_evaluate_command.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from dft_sweeps.evaluation.benchmarks import Benchmark, load_benchmark
from dft_sweeps.evaluation.generator import Canary, Completion, Request
from dft_sweeps.evaluation.grading import GraderPool
from dft_sweeps.evaluation.store import EvaluationStore
from dft_sweeps.orchestration.evaluations import ATTEMPTS, Evaluations
from dft_sweeps.orchestration.mailbox import Checkpoint
from dft_sweeps.orchestration.prepare import prepare
from dft_sweeps.orchestration.standalone import Candidate, Measured, canary_of, measure, read_candidate, stored
from dft_sweeps.report.stored_results import stored_results
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.load import load_sweep
from dft_sweeps.spec.models import BenchmarkSpec, EvaluationSpec, SamplingSpec
from dft_sweeps.training.model_files import EMBEDDED
from tests.end_to_end.running import SPEC
from tests.orchestration.scripted_pool import ScriptedPool

EVALUATION = EvaluationSpec(
    benchmarks=(BenchmarkSpec(name="arithmetic_1", limit=3), BenchmarkSpec(name="arithmetic_2", limit=2)),
    samplings={
        "sampled": SamplingSpec(samples=2, max_new_tokens=32),
        "greedy": SamplingSpec(temperature=0.0, max_new_tokens=32),
    },
)
CANARY = Canary(((1, 2),), ((-1.0,),))


@pytest.fixture(scope="module")
def benchmarks() -> dict[str, Benchmark]:
    return {spec.name: load_benchmark(spec, Path.cwd()) for spec in EVALUATION.benchmarks}


@pytest.fixture
def graders() -> Iterator[GraderPool]:
    with GraderPool() as pool:
        yield pool


def changed_model(directory: Path, chat_template: str | None = None) -> Path:
    """The embedded model with other weights, and another chat template if one is given."""
    shutil.copytree(EMBEDDED, directory)
    weights = load_file(EMBEDDED / "model.safetensors")
    save_file({name: tensor * 1.001 for name, tensor in weights.items()}, directory / "model.safetensors")
    if chat_template is not None:
        settings = json.loads((directory / "tokenizer_config.json").read_text())
        settings["chat_template"] = chat_template
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def candidate(name: str, benchmarks: dict[str, Benchmark], max_model_len: int | None = None) -> Candidate:
    return read_candidate(name, EVALUATION, benchmarks, max_model_len, Path.cwd())


def open_pool(failures: int = 0) -> ScriptedPool:
    pool = ScriptedPool(failures)
    pool.gate.set()
    return pool


def measured(
    candidates: Sequence[Candidate],
    benchmarks: dict[str, Benchmark],
    storage: Path,
    pool: ScriptedPool,
    graders: GraderPool,
    lines: list[str] | None = None,
) -> list[Measured]:
    numbered = dict(enumerate(candidates, start=1))
    canaries = dict.fromkeys(numbered, CANARY)
    said = [] if lines is None else lines
    found = measure(numbered, canaries, benchmarks, EvaluationStore(storage), pool, graders, said.append)
    return [found[number] for number in sorted(found)]


def test_what_was_generated_is_found_without_an_engine(
    benchmarks: dict[str, Benchmark], tmp_path: Path, graders: GraderPool
) -> None:
    base, pool, lines = candidate("embedded", benchmarks), open_pool(), []
    store = EvaluationStore(tmp_path)
    assert stored(base, benchmarks, store, graders) is None
    [first] = measured([base], benchmarks, tmp_path, pool, graders, lines)
    assert pool.swaps == [str(EMBEDDED)]
    assert list(first.results) == ["sampled", "greedy"]
    assert [len(judged["exact"].questions) for judged in first.results["sampled"]] == [3, 2]
    assert [line.split(",")[0] for line in lines] == ["embedded: 15 completions graded"]
    again = stored(base, benchmarks, store, graders)
    assert again == Measured(first.results)

    shutil.rmtree(tmp_path / "grades")
    regraded = stored(base, benchmarks, store, graders)
    assert regraded == again
    shutil.rmtree(tmp_path / "evaluations" / first.results["greedy"][1]["exact"].key.id)
    shutil.rmtree(tmp_path / "grades")
    assert stored(base, benchmarks, store, graders) is None


def test_a_sweeps_own_evaluation_of_the_base_model_is_found(tmp_path: Path, graders: GraderPool) -> None:
    """The sweep's engines take 256 tokens, which cut nothing off, so they are no part of what was asked."""
    prepared = prepare(load_sweep(SPEC))
    store, model, pool = EvaluationStore(tmp_path), prepared.model, open_pool()
    side = Evaluations(prepared.benchmarks, prepared.prompts, store, pool, graders)
    checkpoint = Checkpoint(0, str(model.directory), model.weights_digest, CANARY)
    side.submit("t-1", checkpoint, prepared.samplings_at(prepared.trials[0], 0))
    landed = side.landed.get(timeout=20)
    side.close()
    alone = read_candidate("embedded", prepared.evaluation, prepared.benchmarks, None, tmp_path)
    assert stored(alone, prepared.benchmarks, store, graders) == Measured(landed.results)
    assert len(pool.swaps) == 1


def test_several_checkpoints_share_a_pool_each_with_its_own_prompts(
    benchmarks: dict[str, Benchmark], tmp_path: Path, graders: GraderPool
) -> None:
    other = changed_model(tmp_path / "other")
    terse = changed_model(tmp_path / "terse", "{{ messages[0]['content'] }}")
    candidates = [candidate(name, benchmarks) for name in ("embedded", str(other), str(terse))]
    assert [each.prompts.digest == candidates[0].prompts.digest for each in candidates] == [True, True, False]
    pool = open_pool()
    found = measured(candidates, benchmarks, tmp_path / "storage", pool, graders)
    assert pool.swaps == [str(EMBEDDED), str(other), str(terse)]
    for each, result in zip(candidates, found, strict=True):
        keys = {judged["exact"].key for results in result.results.values() for judged in results}
        assert {key.weights_digest for key in keys} == {each.model.weights_digest}
        assert {key.template_digest for key in keys} == {each.prompts.digest}


def edit_json(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def swap_words(directory: Path) -> None:
    """Another tokenizer, which writes the probe of `Prompts.digest` as before, for it has neither word."""
    file = directory / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["Ġhave"], vocabulary["Ġand"] = vocabulary["Ġand"], vocabulary["Ġhave"]
    file.write_text(json.dumps(content))


OTHER_POLICIES: dict[str, Callable[[Path], object]] = {
    "normalised otherwise": lambda d: edit_json(d / "config.json", rms_norm_eps=0.1),
    "ends elsewhere": lambda d: edit_json(d / "generation_config.json", eos_token_id=[5, 6]),
    "writes words otherwise": swap_words,
}


@pytest.mark.parametrize("case", OTHER_POLICIES)
def test_equal_tensors_of_another_policy_are_not_found_in_the_store(
    case: str, benchmarks: dict[str, Benchmark], tmp_path: Path, graders: GraderPool
) -> None:
    base, twin, store = Path("embedded"), tmp_path / "twin", EvaluationStore(tmp_path / "storage")
    shutil.copytree(EMBEDDED, twin)
    measured([candidate(str(base), benchmarks)], benchmarks, store.root, open_pool(), graders)
    assert stored(candidate(str(twin), benchmarks), benchmarks, store, graders) is not None
    OTHER_POLICIES[case](twin)
    other = candidate(str(twin), benchmarks)
    assert stored(other, benchmarks, store, graders) is None
    lacking = [store.knows(key, benchmark) for _, benchmark, key in other.keys(benchmarks)]
    assert lacking == [False] * 4


def test_engines_that_compute_in_another_dtype_are_asked_anew(
    benchmarks: dict[str, Benchmark], tmp_path: Path, graders: GraderPool
) -> None:
    store = EvaluationStore(tmp_path)
    exact, coarse = (
        read_candidate("embedded", EVALUATION, benchmarks, None, Path.cwd(), dtype) for dtype in ("float32", "bfloat16")
    )
    measured([exact], benchmarks, tmp_path, open_pool(), graders)
    assert stored(coarse, benchmarks, store, graders) is None
    [found] = measured([coarse], benchmarks, tmp_path, open_pool(), graders)
    assert stored(coarse, benchmarks, store, graders) == Measured(found.results)
    described = [each.sampling for each in stored_results(tmp_path, coarse.model.weights_digest, pytest.fail)]
    assert len(set(described)) == 4
    assert sum(", in bfloat16" in each for each in described) == len(described) / 2


def test_prompts_of_each_tokenizer_are_its_own(
    benchmarks: dict[str, Benchmark], tmp_path: Path, graders: GraderPool
) -> None:
    other = changed_model(tmp_path / "other")
    swap_words(other)
    candidates = [candidate(name, benchmarks) for name in ("embedded", str(other))]
    assert candidates[0].prompts.digest == candidates[1].prompts.digest
    question = benchmarks["arithmetic_1"].questions[0].prompt_text
    first, second = (each.prompts.ids(question) for each in candidates)
    assert first != second
    asked: list[tuple[int, ...]] = []

    class Listening(ScriptedPool):
        def generate_of(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[list[Completion]]]:
            asked.extend(request.prompt for requests in groups.values() for request in requests)
            return super().generate_of(groups)

    pool = Listening()
    pool.gate.set()
    measured(candidates, benchmarks, tmp_path / "storage", pool, graders)
    assert {first, second} <= set(asked)


def test_a_kept_canary_is_that_of_the_policy_not_of_its_tensors(
    benchmarks: dict[str, Benchmark], tmp_path: Path
) -> None:
    shutil.copytree(EMBEDDED, tmp_path / "twin")
    edit_json(tmp_path / "twin" / "config.json", rms_norm_eps=0.1)
    mine, its = (canary_of(candidate(name, benchmarks), benchmarks, tmp_path)
                 for name in ("embedded", str(tmp_path / "twin")))  # fmt: skip
    assert mine.prompts == its.prompts
    assert mine.logprobs != its.logprobs


def test_a_checkpoint_that_fails_leaves_the_others(
    benchmarks: dict[str, Benchmark], tmp_path: Path, graders: GraderPool
) -> None:
    base, other = candidate("embedded", benchmarks), candidate(str(changed_model(tmp_path / "other")), benchmarks)
    pool, lines = open_pool(ATTEMPTS), []
    failing, whole = measured([base, other], benchmarks, tmp_path, pool, graders, lines)
    assert f"failed {ATTEMPTS} times; the last time: the engine's process died" in failing.error
    assert (failing.results, whole.error, len(whole.results)) == ({}, None, 2)
    failures = [line for line in lines if line.startswith("embedded: attempt ")]
    assert len(failures) == ATTEMPTS - 1

    [entry] = (tmp_path / "grades").glob(f"{whole.results['greedy'][0]['exact'].id}/verdicts.parquet")
    entry.write_bytes(b"PAR1")
    damaged = stored(other, benchmarks, EvaluationStore(tmp_path), graders)
    assert damaged.results == {}
    assert f"{entry}: its 4 bytes are not those that were written" in damaged.error


def test_a_context_that_cuts_answers_off_is_part_of_what_is_asked(benchmarks: dict[str, Benchmark]) -> None:
    ids = {
        context: {key.id for _, _, key in candidate("embedded", benchmarks, context).keys(benchmarks)}
        for context in (None, 256, 40)
    }
    assert ids[None] == ids[256]
    assert not ids[None] & ids[40]
    longest = candidate("embedded", benchmarks).longest(benchmarks)
    assert 32 < longest < 100  # prompt and answer, far below the model's 4,096
    assert candidate("embedded", benchmarks, 40).longest(benchmarks) == 40


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("embedded@main", "a model of the hub has revisions, but 'embedded' is a local directory"),
        ("", "'' names no file or directory"),
        ("./nope", "no model directory"),
        (str(EMBEDDED / "config.json"), "is a file; give the directory that holds config.json"),
    ],
)
def test_what_is_no_checkpoint_is_refused(name: str, message: str, benchmarks: dict[str, Benchmark]) -> None:
    with pytest.raises(SpecError, match=message):
        candidate(name, benchmarks)


def test_a_canary_is_made_by_transformers_and_kept(benchmarks: dict[str, Benchmark], tmp_path: Path) -> None:
    base = candidate("embedded", benchmarks)
    made = canary_of(base, benchmarks, tmp_path)
    questions = benchmarks["arithmetic_1"].questions
    assert made.prompts == tuple(base.prompts.ids(question.prompt_text)[:48] for question in questions)
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    for prompt, row in zip(made.prompts, made.logprobs, strict=True):
        logits = model(torch.tensor([prompt])).logits[0, :-1].log_softmax(-1)
        expected = logits[torch.arange(len(prompt) - 1), torch.tensor(prompt[1:])]
        assert list(row) == pytest.approx(expected.tolist(), abs=1e-4)

    [kept] = (tmp_path / "canaries").iterdir()
    assert kept.name == f"{base.model.weights_digest}.json"
    CANARY.save(kept)
    assert canary_of(base, benchmarks, tmp_path) == CANARY
    kept.write_text('{"prompts": [[1, 2]], "logprobs": 3}')
    with pytest.raises(SpecError, match=f"{kept}: not a canary"):
        canary_of(base, benchmarks, tmp_path)


def test_the_checkpoints_own_canary_comes_first(benchmarks: dict[str, Benchmark], tmp_path: Path) -> None:
    other = candidate(str(changed_model(tmp_path / "other")), benchmarks)
    CANARY.save(tmp_path / "other" / "canary.json")
    assert canary_of(other, benchmarks, tmp_path) == CANARY
    assert not (tmp_path / "canaries").exists()
