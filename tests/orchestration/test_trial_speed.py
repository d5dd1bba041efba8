"""What the events of a trial say of its speed."""

from __future__ import annotations

import pytest

from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.evaluation.evaluate import evaluation_key
from dft_sweeps.evaluation.grading import Verdict
from dft_sweeps.evaluation.results import BenchmarkResult, GradedQuestion, GradedSample
from dft_sweeps.orchestration.evaluations import Evaluated
from dft_sweeps.orchestration.mailbox import StepRow, TrialStarted
from dft_sweeps.orchestration.prepare import PreparedSweep
from dft_sweeps.orchestration.trial_speed import TrialSpeed
from tests.orchestration.file_sweep import prepared, write_files


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> PreparedSweep:
    return prepared(write_files(tmp_path_factory.mktemp("files")))


def started(at_ms: int) -> TrialStarted:
    return TrialStarted("t", at_ms, at_ms + 500, 0, "")


def rows(*times_and_tokens: tuple[int, int]) -> list[StepRow]:
    histogram = StepRow(0, 1, {"probability/bin_00": 1.0})
    steps = [StepRow(i + 1, at, {"train/tokens": float(tokens)}) for i, (at, tokens) in enumerate(times_and_tokens)]
    return [histogram, *steps]


def evaluated(swept: PreparedSweep, tokens: list[int], seconds: float) -> Evaluated:
    """Two completions to each question."""
    prompts: Prompts = swept.prompts
    [benchmark] = swept.benchmarks.values()
    key = evaluation_key("w", benchmark, swept.evaluation.sampling_at("sampled", 0, 6), prompts)
    verdict = Verdict(True, "1", "")
    samples = tuple(GradedSample(verdict, "stop", length) for length in tokens)
    result = BenchmarkResult(key, "own/1", False, (GradedQuestion("q", "1", samples),))
    return Evaluated("t", 3, {"sampled": [{"own": result}]}, seconds, 0.1, weights_digest="w")


def test_speeds_are_of_the_present_attempt(swept: PreparedSweep) -> None:
    speed = TrialSpeed(swept, swept.trials[1])
    speed.started(started(1_000))
    speed.stepped(rows((2_000, 10), (4_000, 20)))
    speed.started(started(5_000))
    speed.stepped(rows((9_000, 40)))
    speed.stepped(rows((12_000, 70), (15_000, 100)))
    measured = speed.measured
    assert measured is not None
    assert (measured.objective, measured.train_s, measured.train_tokens) == ("dft", 6.0, 60)
    assert (measured.workers_start_s, measured.start_s) == (0.5, 3.5)


def test_one_step_measures_no_speed(swept: PreparedSweep) -> None:
    speed = TrialSpeed(swept, swept.trials[0])
    speed.started(started(1_000))
    speed.stepped(rows((2_000, 10)))
    assert speed.measured is None


def test_evaluations_measure_engines_and_lengths(swept: PreparedSweep) -> None:
    speed = TrialSpeed(swept, swept.trials[0])
    speed.evaluated(evaluated(swept, [3, 5], 2.0))
    speed.evaluated(evaluated(swept, [4, 8], 0.0))  # from the store
    measured = speed.measured
    assert measured is not None
    assert (measured.evaluation_s, measured.evaluation_tokens) == (2.0, 8)
    assert measured.lengths == {"gsm8k/16": [20, 4]}
