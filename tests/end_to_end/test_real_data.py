"""Real files through the whole way: GSM8K's training file, two real benchmarks, math-verify, the real engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from dft_sweeps.tracking.reader import Reader
from tests.end_to_end.running import run

pytestmark = [pytest.mark.ray, pytest.mark.slow]
GSM8K = Path(__file__).parents[2] / "sweep_specs" / "gsm8k_local.yaml"


def test_gsm8k_from_local_files(shared_data: Path, tmp_path: Path) -> None:
    benchmarks = ", ".join(
        f"{{name: {name}, path: {shared_data / 'benchmarks' / name}.jsonl, limit: 6}}" for name in ("gsm8k", "amc23")
    )
    settings = {
        "trial.data.source.path": str(shared_data / "train" / "gsm8k_train.jsonl"),
        "trial.train.steps": "2",
        "trial.evaluation.benchmarks": f"[{benchmarks}]",
        "trial.evaluation.samplings.sampled.max_new_tokens": "64",
        "trial.evaluation.samplings.greedy.max_new_tokens": "64",
    }
    overrides = [part for path, value in settings.items() for part in ("--set", f"{path}={value}")]
    outcome = run("run", str(GSM8K), "--storage", str(tmp_path), *overrides)
    assert outcome.code == 0, outcome.text
    assert "9 samples of a trial's data are longer than data.max_length and left out" in outcome.text
    assert "Limited: gsm8k to its first 6 questions, amc23 to its first 6 questions" in outcome.text
    words = " ".join(outcome.text.split())  # titles are wrapped to the tables' width
    assert "Grader strict/math-verify-0.9.0-2; 95% intervals for new questions." in words
    assert "Grader paper/2, averaged as in the published harness; 95% intervals for this fixed list" in words
    reader = Reader(f"sqlite:///{tmp_path / 'mlflow.db'}")
    for trial in reader.trials(reader.find_sweep("gsm8k-local")):
        assert trial.params["resolved.overlong"] == "9"
        for benchmark in ("gsm8k", "amc23"):
            for name in ("accuracy", "fixed_low", "paper_accuracy", "paper_fixed_high", "disagreement"):
                assert [step for step, _ in reader.curve(trial.run_id, f"eval/{benchmark}/{name}")] == [0, 2]
            assert reader.curve(trial.run_id, f"eval_greedy/{benchmark}/ungradable") == [(0, 0.0), (2, 0.0)]
