"""A TPE search by the real command: interrupted between two rounds it is taken up, and ends with the trials that it
would have had."""

from __future__ import annotations

from pathlib import Path

import pytest

from dft_sweeps.tracking.reader import Reader
from tests.end_to_end.running import SPEC, run

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SPACE = (
    "{train.learning_rate: {kind: log_uniform, low: 1e-4, high: 3e-3},"
    " train.batch_size: {kind: choice, values: [8, 16]},"
    " train.objective.alpha: {kind: uniform, low: 0, high: 2}}"
)
SEARCH = (
    *("--set", "axes={}", "--set", "trial.train.objective={kind: power}"),
    *("--set", f"search={{kind: tpe, trials: 4, batch: 2, space: {SPACE}}}"),
)


def test_a_search_interrupted_between_rounds_ends_with_the_trials_of_an_undisturbed_one(tmp_path: Path) -> None:
    arguments = ("run", str(SPEC), *SEARCH, "--storage", str(tmp_path))
    reader_of = f"sqlite:///{tmp_path / 'mlflow.db'}"

    interrupted = run(*arguments, at_line="2 trials more, 4 of 4")
    assert interrupted.code == 130, interrupted.text
    assert interrupted.lines[-1] == "interrupted"
    assert interrupted.left == []
    reader = Reader(reader_of)
    sweep = reader.find_sweep("end-to-end")
    assert (sweep.status, sweep.trials, sweep.finished, sweep.to_propose) == ("KILLED", 4, 2, 0)
    proposed = [trial.training_id for trial in reader.trials(sweep)]

    taken_up = run(*arguments)
    assert taken_up.code == 0, taken_up.text
    assert "2 of 4 trials are finished already" in taken_up.text
    assert "trials more" not in taken_up.text  # what was proposed stands
    assert "2 trials finished, 2 reused, 0 failed" in taken_up.text
    assert "Best point under sampled (average): learning_rate=" in taken_up.text.replace("\n", " ")
    assert any(line.endswith("search_sampled.png") for line in taken_up.lines)
    ended = reader.find_sweep("end-to-end")
    assert [(trial.training_id, trial.status) for trial in reader.trials(ended)] == [
        (training_id, "FINISHED") for training_id in proposed
    ]
    assert (ended.sweep_id, ended.status) == (sweep.sweep_id, "FINISHED")

    # Another sweep shares what is trained, but no proposals: it proposes its own, and finds them trained.
    undisturbed = run(*arguments, "--set", "name=undisturbed")
    assert undisturbed.code == 0, undisturbed.text
    assert "2 trials more, 4 of 4" in undisturbed.text
    assert "0 trials finished, 4 reused, 0 failed" in undisturbed.text
    assert "starting Ray" not in undisturbed.text
    assert [trial.training_id for trial in reader.trials(reader.find_sweep("undisturbed"))] == proposed
