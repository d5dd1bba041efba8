from __future__ import annotations

import json

import pytest

from dft_sweeps.evaluation.adaptive import look_level, looks
from dft_sweeps.evaluation.grading import Verdict
from dft_sweeps.evaluation.results import BenchmarkResult, EvaluationKey, GradedQuestion, GradedSample
from dft_sweeps.evaluation.selection import held_out
from dft_sweeps.spec.models import AdaptiveSpec, SamplingSpec
from dft_sweeps.tracking.question_results import from_json, to_json


def result(sampling: SamplingSpec, questions: int = 10) -> BenchmarkResult:
    """The first question has no right sample, the second one, and so on, up to all of them."""
    graded = [
        GradedQuestion(
            f"q{index}",
            "1",
            tuple(
                GradedSample(Verdict(sample < index, "1", ""), "stop", 5) for sample in range(sampling.samples)
            ),
        )
        for index in range(questions)
    ]  # fmt: skip
    return BenchmarkResult(EvaluationKey("w", "amc23", "d", "t", sampling), "strict/1", False, tuple(graded))


def test_what_is_written_is_read_back_with_its_settings_and_split() -> None:
    sampling = SamplingSpec(samples=4, temperature=0.7)
    judged = result(sampling)
    [table] = from_json(to_json({"sampled": [{"strict": judged}]}, selection_share=0.3))
    assert table.right == (0, 1, 2, 3, 4, 4, 4, 4, 4, 4)
    assert table.settings == sampling.model_dump(mode="json")
    ids = [f"q{index}" for index in range(10)]
    assert set(table.held_out) == held_out("amc23", ids, 0.3) and len(table.held_out) == 3
    rest = table.without(table.held_out)
    assert rest.held_out == () and set(rest.questions) == set(ids) - set(table.held_out)
    assert (
        dict(zip(rest.questions, rest.right, strict=True)).items()
        <= dict(zip(table.questions, table.right, strict=True)).items()
    )
    right, samples = rest.counts
    assert right.tolist() == list(rest.right) and set(samples) == {4.0}


def test_artifacts_of_an_earlier_version_are_read() -> None:
    [written] = json.loads(to_json({"sampled": [{"strict": result(SamplingSpec(samples=2))}]}))
    del written["settings"], written["held_out"]
    [table] = from_json(json.dumps([written]))
    assert (table.settings, table.held_out, table.level) == (None, (), 0.95)


def test_intervals_of_adaptive_sampling_hold_at_every_look() -> None:
    sampling = SamplingSpec(samples=16, adaptive=AdaptiveSpec(half_width=1.0))
    [table] = from_json(to_json({"sampled": [{"strict": result(sampling)}]}))
    assert table.level == pytest.approx(look_level(looks(16)))
    assert table.level > 0.95
