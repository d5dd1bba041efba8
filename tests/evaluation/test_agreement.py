"""The strict grader on every gold of the paper's benchmarks: other spellings are accepted, near misses are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from dft_sweeps.evaluation.benchmarks import Benchmark, load_benchmark
from dft_sweeps.evaluation.gold_answers import Gold
from dft_sweeps.evaluation.graders.answers import Formula
from dft_sweeps.evaluation.grading import GraderPool
from dft_sweeps.spec.models import BenchmarkSpec
from tests.evaluation.rewrites import kind, other_units, perturbed, rewrites

SIZES = {"math500": 500, "minerva_math": 272, "olympiadbench": 675, "aime24": 30, "amc23": 40, "gsm8k": 1319}
LEAST_AGREEMENT = 0.995
EXCEPTIONS: dict[str, dict[str, str]] = yaml.safe_load(
    (Path(__file__).parent / "agreement_exceptions.yaml").read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(workers=2, timeout_s=10.0) as pool:
        yield pool


@pytest.fixture(scope="module")
def benchmarks(shared_benchmarks: Path) -> dict[str, Benchmark]:
    return {name: load_benchmark(BenchmarkSpec(name=name, path=f"{name}.jsonl"), shared_benchmarks) for name in SIZES}


def disagreements(
    pool: GraderPool, benchmark: Benchmark, spell: Callable[[Gold], dict[str, str]], correct: bool
) -> tuple[dict[str, list[str]], int]:
    """Names of the spellings judged otherwise, by question id, and the number of all spellings."""
    items = [(q, name, text) for q in benchmark.questions for name, text in spell(q.gold).items()]
    verdicts = pool.grade([(question.gold, text) for question, _, text in items], "strict")
    found: dict[str, list[str]] = {}
    for (question, name, _), verdict in zip(items, verdicts, strict=True):
        if verdict.correct is not correct:
            found.setdefault(question.id, []).append(name)
    return found, len(items)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(("spell", "correct"), [(rewrites, True), (perturbed, False)], ids=["rewrites", "perturbed"])
def test_strict_accepts_other_spellings_and_rejects_near_misses(
    pool: GraderPool,
    benchmarks: dict[str, Benchmark],
    name: str,
    spell: Callable[[Gold], dict[str, str]],
    correct: bool,
) -> None:
    benchmark = benchmarks[name]
    assert len(benchmark.questions) == SIZES[name]
    found, count = disagreements(pool, benchmark, spell, correct)
    assert {id_: names for id_, names in found.items() if id_ not in EXCEPTIONS.get(name, {})} == {}
    assert 1 - sum(map(len, found.values())) / count >= LEAST_AGREEMENT


def test_another_unit_of_the_same_kind_is_another_answer(pool: GraderPool, benchmarks: dict[str, Benchmark]) -> None:
    golds = [question.gold for benchmark in benchmarks.values() for question in benchmark.questions]
    plain = [gold for gold in golds if kind(gold) is Formula and "text" not in gold.text and "box" not in gold.text]
    assert len(plain) > 2500
    right, wrong = [], []
    for gold, same, other in map(other_units, plain):
        right += [(gold, text) for text in same.values()]
        wrong += [(gold, text) for text in other.values()]
    assert [pair for pair, v in zip(right, pool.grade(right, "strict"), strict=True) if v.correct is not True] == []
    assert [pair for pair, v in zip(wrong, pool.grade(wrong, "strict"), strict=True) if v.correct is not False] == []


def test_every_gold_has_enough_spellings_and_near_misses(benchmarks: dict[str, Benchmark]) -> None:
    golds = [question.gold for benchmark in benchmarks.values() for question in benchmark.questions]
    assert min(len(set(rewrites(gold).values())) for gold in golds) >= 7
    without = [gold.text for gold in golds if not perturbed(gold)]
    assert without == [r"x_{0} \cos (\omega t)+ \dot{x}_{0} \sin (\omega t) / \omega", "E_{1},E_{2}"]


def test_every_exception_is_one(pool: GraderPool, benchmarks: dict[str, Benchmark]) -> None:
    for name, reasons in EXCEPTIONS.items():
        found = {
            id_
            for spell, ok in ((rewrites, True), (perturbed, False))
            for id_ in disagreements(pool, benchmarks[name], spell, ok)[0]
        }
        assert set(reasons) == found


def test_answers_to_other_questions_are_rejected(pool: GraderPool, benchmarks: dict[str, Benchmark]) -> None:
    for name in ("math500", "minerva_math", "olympiadbench"):
        golds = [question.gold for question in benchmarks[name].questions]
        pairs = [(gold, golds[at - 7]) for at, gold in enumerate(golds)]
        items = [(gold, f"\\boxed{{{other.text}}}") for gold, other in pairs]
        accepted = [
            (gold.text, other.text)
            for (gold, other), verdict in zip(pairs, pool.grade(items, "strict"), strict=True)
            if verdict.correct is True and gold.text != other.text
        ]
        assert len(accepted) <= 1, accepted
