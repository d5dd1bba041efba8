from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow
import pyarrow.parquet
import pytest

from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.evaluation import grading
from dft_sweeps.evaluation.benchmarks import load_benchmark
from dft_sweeps.evaluation.evaluate import generate, grade
from dft_sweeps.evaluation.grading import GraderPool
from dft_sweeps.evaluation.results import BenchmarkResult, Completions
from dft_sweeps.evaluation.store import CorruptEntry, EvaluationStore
from dft_sweeps.spec.models import BenchmarkSpec, SamplingSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BENCHMARK = load_benchmark(BenchmarkSpec(name="arithmetic_1", limit=8), Path("/nowhere"))
SAMPLING = SamplingSpec(samples=3, max_new_tokens=64, seed=3)


def answer(question: int, sample: int) -> str:
    gold = BENCHMARK.questions[question].answer
    return [f"so \\boxed{{{gold}}}", "żółw 🐢 \\boxed{-1}", f"cut {gold}"][sample]


@pytest.fixture
def completions(tokenizer: PreTrainedTokenizerFast, scripted: type[Any]) -> Completions:
    return generate(scripted(tokenizer, answer, "cut"), BENCHMARK, SAMPLING, Prompts(tokenizer))


@pytest.fixture
def result(completions: Completions) -> BenchmarkResult:
    with GraderPool() as graders:
        graded = grade(completions, BENCHMARK, graders)
    # One ungradable completion, so that the round trip covers verdicts without an answer.
    first = graded.questions[0]
    sample = replace(first.samples[0], verdict=grading.Verdict(None, None, "took longer than 3 s"))
    return replace(graded, questions=(replace(first, samples=(sample, *first.samples[1:])), *graded.questions[1:]))


@pytest.fixture
def store(tmp_path: Path) -> EvaluationStore:
    return EvaluationStore(tmp_path / "root")


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_round_trip(store: EvaluationStore, completions: Completions, result: BenchmarkResult) -> None:
    key = completions.key
    assert store.load_completions(key, BENCHMARK) is None
    assert store.load(key, BENCHMARK) is None
    store.save_completions(completions)
    store.save(result)
    assert store.load_completions(key, BENCHMARK) == completions
    loaded = store.load(key, BENCHMARK)
    assert loaded == result
    assert loaded.ungradable == 1
    assert files(store.root) == [
        f"evaluations/{key.id}/completions.parquet",
        f"evaluations/{key.id}/evaluation.json",
        f"grades/{result.id}/result.json",
        f"grades/{result.id}/verdicts.parquet",
    ]


def test_completions_file_can_be_read_by_itself(store: EvaluationStore, completions: Completions) -> None:
    table = pyarrow.parquet.read_table(store.save_completions(completions) / "completions.parquet")
    row = table.to_pylist()[1]
    assert row["text"] == "żółw 🐢 \\boxed{-1}"
    assert row["tokens"] == len(row["token_ids"]) == len(row["logprobs"])
    assert set(table.column("weights_digest").to_pylist()) == {completions.key.weights_digest}


def test_other_weights_benchmark_template_or_sampling_is_another_entry(
    store: EvaluationStore, completions: Completions, result: BenchmarkResult
) -> None:
    store.save_completions(completions)
    store.save(result)
    changes: list[dict[str, Any]] = [
        {"weights_digest": "v" * 64},
        {"benchmark_digest": "b" * 64},
        {"template_digest": "t" * 64},
        {"sampling": SAMPLING.model_copy(update={"temperature": 0.5})},
    ]
    for change in changes:
        other = replace(completions.key, **change)
        assert store.load_completions(other, BENCHMARK) is None
        assert store.load(other, BENCHMARK) is None


def test_a_new_grader_regrades_stored_completions(
    store: EvaluationStore, completions: Completions, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = completions.key
    with GraderPool() as graders:
        assert store.load_or_regrade(key, BENCHMARK, graders) is None
        store.save_completions(completions)
        first = store.load_or_regrade(key, BENCHMARK, graders)
        assert first == {"exact": grade(completions, BENCHMARK, graders)}
        monkeypatch.setitem(grading.GRADERS, "exact", "2")
        assert store.load(key, BENCHMARK) is None
        second = store.load_or_regrade(key, BENCHMARK, graders)
    assert (first["exact"].grader, second["exact"].grader) == ("exact/1", "exact/2")
    assert second["exact"].questions == first["exact"].questions
    assert store.load(key, BENCHMARK) == second["exact"]
    assert len(files(store.root / "grades")) == 4


def test_completions_of_old_get_the_verdicts_of_the_grader_they_lack(
    store: EvaluationStore, tokenizer: PreTrainedTokenizerFast, scripted: type[Any], tmp_path: Path
) -> None:
    """As a store from before the second grader holds them: completions, and one grader's verdicts."""
    (tmp_path / "rows.jsonl").write_text('{"question": "q", "answer": 27.0}\n{"question": "r", "answer": 204}')
    benchmark = load_benchmark(BenchmarkSpec(name="amc23", path="rows.jsonl"), tmp_path)
    texts = [["so \\boxed{27}", "so \\boxed{2700}"], ["\\boxed{2.04}", "\\boxed{9 \\text{cm}}"]]
    generator = scripted(tokenizer, lambda question, sample: texts[question][sample])
    completions = generate(generator, benchmark, SamplingSpec(samples=2, max_new_tokens=64), Prompts(tokenizer))
    key = completions.key
    assert not store.knows(key, benchmark)
    with GraderPool() as graders:
        store.save_completions(completions)
        old = grade(completions, benchmark, graders)
        directory = store.save(old)
        summary = json.loads((directory / "result.json").read_text())
        del summary["fixed_interval"]
        (directory / "result.json").write_text(json.dumps(summary))
        assert store.knows(key, benchmark)
        found = store.load_or_regrade(key, benchmark, graders)
    assert list(found) == ["strict", "paper"]
    assert found["strict"] == old
    assert found["strict"].correct == [[True, False], [False, False]]
    assert found["paper"].correct == [[True, True], [True, False]]
    assert store.load(key, benchmark, "paper") == found["paper"]
    tables = {pyarrow.parquet.read_table(path).num_rows for path in store.root.glob("grades/*/verdicts.parquet")}
    assert (len({result.id for result in found.values()}), tables) == (2, {4})
    shutil.rmtree(store.root / "evaluations")
    assert store.knows(key, benchmark)
    shutil.rmtree(store.root / "grades" / old.id)
    with GraderPool() as graders:
        assert not store.knows(key, benchmark)
        assert store.load_or_regrade(key, benchmark, graders) is None


def copy_entry(store: EvaluationStore, saved: Path, id_: str) -> Path:
    """Puts an entry where another one would be looked for."""
    return Path(shutil.copytree(saved, saved.parent / id_))


def test_entry_of_other_weights_is_refused_by_name(
    store: EvaluationStore, completions: Completions, result: BenchmarkResult
) -> None:
    other = replace(completions.key, weights_digest="v" * 64)
    poisoned = copy_entry(store, store.save_completions(completions), other.id)
    with pytest.raises(CorruptEntry, match="weights_digest is 'www") as caught:
        store.load_completions(other, BENCHMARK)
    assert str(poisoned / "evaluation.json") in str(caught.value)
    poisoned = copy_entry(store, store.save(result), replace(result, key=other).id)
    with pytest.raises(CorruptEntry, match="weights_digest is 'www") as caught:
        store.load(other, BENCHMARK)
    assert str(poisoned / "result.json") in str(caught.value)


def test_damage_anywhere_in_a_table_is_noticed(
    store: EvaluationStore, completions: Completions, result: BenchmarkResult
) -> None:
    paths = (
        store.save_completions(completions) / "completions.parquet",
        store.save(result) / "verdicts.parquet",
    )
    for path, load in zip(paths, (store.load_completions, store.load), strict=True):
        whole = path.read_bytes()
        flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 97)]
        for damaged in (*flipped, b"", whole[:4], whole[: len(whole) // 2], whole[:-1]):
            path.write_bytes(damaged)
            with pytest.raises(CorruptEntry, match="not those that were written") as caught:
                load(completions.key, BENCHMARK)
            assert str(path) in str(caught.value)
        path.unlink()
        with pytest.raises(CorruptEntry, match="no such file"):
            load(completions.key, BENCHMARK)


def test_a_file_from_another_entry_is_noticed(
    store: EvaluationStore, completions: Completions, tokenizer: PreTrainedTokenizerFast, scripted: type[Any]
) -> None:
    """The other evaluation's completions, row for row of the same questions, below this one's description."""
    generator = scripted(tokenizer, lambda question, sample: "\\boxed{0}")
    generator.weights_digest = "v" * 64
    other = store.save_completions(generate(generator, BENCHMARK, SAMPLING, Prompts(tokenizer))) / "completions.parquet"
    path = store.save_completions(completions) / "completions.parquet"
    shutil.copy(other, path)
    with pytest.raises(CorruptEntry, match="not those that were written"):
        store.load_completions(completions.key, BENCHMARK)


def test_missing_rows_are_noticed(store: EvaluationStore, completions: Completions, result: BenchmarkResult) -> None:
    store.save_completions(replace(completions, rows=completions.rows[:-1]))
    with pytest.raises(CorruptEntry, match="not this benchmark's questions and samples"):
        store.load_completions(completions.key, BENCHMARK)
    store.save(replace(result, questions=result.questions[:-1]))
    with pytest.raises(CorruptEntry, match="not this benchmark's questions and samples"):
        store.load(result.key, BENCHMARK)


def test_edited_verdicts_or_summary_are_noticed(store: EvaluationStore, result: BenchmarkResult) -> None:
    path = store.save(result) / "result.json"
    summary = json.loads(path.read_text())
    assert summary["counts"]["accuracy"] == result.accuracy
    assert summary["interval"]["high"] == result.interval.high
    summary["counts"]["accuracy"] = 1.0
    path.write_text(json.dumps(summary))
    with pytest.raises(CorruptEntry, match="disagree with the verdicts"):
        store.load(result.key, BENCHMARK)
    path.write_text("[]")
    with pytest.raises(CorruptEntry, match="names no identity"):
        store.load(result.key, BENCHMARK)
    path.write_text("{")
    with pytest.raises(CorruptEntry, match="not a whole description"):
        store.load(result.key, BENCHMARK)


def test_a_writer_that_dies_leaves_no_entry_and_no_rubbish(
    store: EvaluationStore, completions: Completions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            store.save_completions(completions)
    assert store.load_completions(completions.key, BENCHMARK) is None
    assert list((store.root / "evaluations").iterdir()) == []


def test_an_abandoned_half_written_entry_is_never_read(store: EvaluationStore, completions: Completions) -> None:
    half = store.root / "evaluations" / f".writing-{completions.key.id}-0"
    half.mkdir(parents=True)
    (half / "completions.parquet").write_bytes(b"PAR1")
    assert store.load_completions(completions.key, BENCHMARK) is None
    store.save_completions(completions)
    assert store.load_completions(completions.key, BENCHMARK) == completions


def test_the_first_of_two_writers_wins(store: EvaluationStore, completions: Completions) -> None:
    path = store.save_completions(completions) / "completions.parquet"
    first = path.stat()
    assert store.save_completions(completions) == path.parent
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    assert len(list(path.parent.parent.iterdir())) == 1
