"""A TPE search by the real command: interrupted between two rounds it is taken up, and ends with the trials that it
would have had, also where a scheduler stops some of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from dft_sweeps.tracking.reader import Reader, TrialRow
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
RUNG = 3
HALVING = ("--set", f"scheduler={{kind: asha, rungs: [{RUNG}], reduction_factor: 2}}")


def interrupted_and_taken_up(storage: Path, arguments: Sequence[str]) -> Sequence[TrialRow]:
    """The trials of a search that was interrupted between two rounds and then taken up."""
    interrupted = run(*arguments, at_line="2 trials more, 4 of 4")
    assert interrupted.code == 130, interrupted.text
    assert interrupted.lines[-1] == "interrupted"
    assert interrupted.left == []
    reader = Reader(f"sqlite:///{storage / 'mlflow.db'}")
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
    return reader.trials(ended)


def undisturbed(storage: Path) -> Sequence[TrialRow]:
    reader = Reader(f"sqlite:///{storage / 'mlflow.db'}")
    return reader.trials(reader.find_sweep("undisturbed"))


def test_a_search_interrupted_between_rounds_ends_with_the_trials_of_an_undisturbed_one(tmp_path: Path) -> None:
    arguments = ("run", str(SPEC), *SEARCH, "--storage", str(tmp_path))
    proposed = interrupted_and_taken_up(tmp_path, arguments)
    # Another sweep shares what is trained, but no proposals: it proposes its own, and finds them trained.
    whole = run(*arguments, "--set", "name=undisturbed")
    assert whole.code == 0, whole.text
    assert "2 trials more, 4 of 4" in whole.text
    assert "0 trials finished, 4 reused, 0 failed" in whole.text
    assert "starting Ray" not in whole.text
    assert [trial.training_id for trial in undisturbed(tmp_path)] == [trial.training_id for trial in proposed]


@pytest.mark.faults
def test_a_search_whose_trials_compete_at_a_rung_is_taken_up_to_the_same_points_and_verdicts(tmp_path: Path) -> None:
    """TPE is told of those that were stopped, and proposes from them too."""
    arguments = ("run", str(SPEC), *SEARCH, *HALVING, "--storage", str(tmp_path))
    proposed = interrupted_and_taken_up(tmp_path, arguments)
    assert {trial.stopped_at for trial in proposed} == {RUNG, None}
    assert sum(trial.stopped_at is None for trial in proposed[:2]) == 1
    # Another sweep takes up those that were stopped, and comes to the same verdict of each.
    whole = run(*arguments, "--set", "name=undisturbed")
    assert whole.code == 0, whole.text
    stopped = sum(trial.stopped_at == RUNG for trial in proposed)
    assert "2 trials more, 4 of 4" in whole.text
    assert f"{stopped} trials finished, {4 - stopped} reused, 0 failed" in whole.text
    assert ": started" not in whole.text
    assert [(trial.training_id, trial.stopped_at) for trial in undisturbed(tmp_path)] == [
        (trial.training_id, trial.stopped_at) for trial in proposed
    ]
