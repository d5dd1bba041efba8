"""Small sweeps on the virtual clock: real coordinators end them, near what no schedule can beat, and always alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dft_sweeps.orchestration.prepare import PreparedSweep
from tests.bench.simulation import Measured, first_limit
from tests.bench.simulation_mlflow import Taken
from tests.bench.simulation_run import simulate
from tests.bench.simulation_services import Costs, Speeds
from tests.bench.simulation_sweeps import EIGHT_GPUS, figure_3, grid, nodes, together

FREE = Costs()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedSweep, Speeds]:
    """12 trials of 20 minutes, evaluated half-way and at the end."""
    return grid(tmp_path_factory.mktemp("grid"), 12, 2, steps=20, questions=16)


def test_a_small_sweep_ends_near_the_bound_and_always_alike(
    small: tuple[PreparedSweep, Speeds], tmp_path: Path
) -> None:
    prepared, speeds = small
    speeds = replace(speeds, samples_per_s=256 * 20 / 1200)
    first, second = (simulate(prepared, nodes(6), speeds, FREE, tmp_path / name) for name in "ab")
    assert (first.finished, first.ends["FINISHED"], first.slots, first.engines) == (12, 12, 4, 2)
    assert first.bound.seconds <= first.makespan <= 1.1 * first.bound.seconds
    assert (first.makespan, first.lines) == (second.makespan, second.lines)
    # A row for each of 11 metrics and 20 steps, 13 bins at 3 of them, and the numbers of 3 checkpoints.
    evaluated = {line for line in first.lines if line.startswith("evaluate ")}
    assert len(evaluated) == first.points == 36
    assert first.rows > 12 * (11 * 20 + 3 * 13)


def test_what_the_software_takes_is_in_the_makespan(small: tuple[PreparedSweep, Speeds], tmp_path: Path) -> None:
    prepared, speeds = small
    speeds = replace(speeds, samples_per_s=256 * 20 / 1200)
    free = simulate(prepared, nodes(6), speeds, FREE, tmp_path / "free")
    tune = simulate(prepared, nodes(6), speeds, Costs(tune_trial_s=60.0), tmp_path / "tune")
    assert tune.makespan > free.makespan + 2 * 60
    # 25 distinct checkpoints of 5,436 answers, one process: 100 answers a second take longer than all else.
    graded = simulate(prepared, nodes(6), speeds, Costs(answer_s=0.1), tmp_path / "graded")
    assert graded.makespan > 25 * 543.6 and graded.grading_busy > 0.9
    several = simulate(prepared, nodes(6), speeds, Costs(answer_s=0.1, grading_processes=16), tmp_path / "several")
    assert several.makespan < 1.1 * free.makespan
    behind = simulate(prepared, nodes(6), speeds, Costs(batch_s=10.0), tmp_path / "behind")
    assert behind.mlflow_behind_s > 100 * free.mlflow_behind_s and behind.rows == free.rows


def test_longest_trials_last_make_a_tail(tmp_path: Path) -> None:
    prepared, speeds = grid(tmp_path, 12, 2, steps=40, questions=16, uneven=True)
    speeds = replace(speeds, samples_per_s=256 * 40 / 1200, completions_per_s=500.0)
    assert {trial.facts.steps for trial in prepared.trials} == {10, 20, 40}
    last, first = (simulate(prepared, nodes(7), speeds, FREE, tmp_path / str(n), longest_first=n > 0) for n in (0, 1))
    assert first.makespan < 0.95 * last.makespan
    assert first.makespan >= first.bound.seconds == last.bound.seconds


def test_figure_3_is_its_14_trials_as_the_specs_place_them(tmp_path: Path) -> None:
    sweeps, speeds = figure_3(tmp_path)
    whole = together(sweeps)
    assert sorted(trial.facts.steps for trial in whole.trials) == [390] * 8 + [781] * 2 + [1562] * 2 + [3125] * 2
    assert {trial.evaluated_steps for trial in whole.trials} == {(0, 390), (0, 781), (0, 1562), (0, 3125)}
    few = replace(whole, trials=tuple(replace(t, facts=replace(t.facts, steps=20)) for t in whole.trials))
    speeds = replace(speeds, samples_per_s=20 * 256 / 600, jitter=0.0)
    found = simulate(few, EIGHT_GPUS, speeds, FREE, tmp_path / "s", only=[few.trials[0].training_id])
    assert (found.slots, found.finished) == (1, 1)
    # The base model's 24,272 completions take long, so the pool grows by an engine for the trained one's.
    assert found.engines == 2


def test_the_row_names_the_first_limit_and_what_follows() -> None:
    taken = Taken(batch_s=0.01, row_s=0.001)
    processes = {"TrainController": 250.0, "PlacementGroupCleaner": 100.0}
    measured = Measured({"driver_mib": 162.0}, processes, {}, {"completion_s": 0.001}, taken, taken, 226.5)
    said = first_limit(measured)
    assert "226 answers/s of each process, 10 such engines'" in said and "44 engines' completions" in said
    assert "512 MiB of their nodes for each trial at a time, in 3 processes: 64 GiB hold 128" in said
    assert taken.steps_per_s == pytest.approx(11 / 0.021) and taken.most_per_s == pytest.approx(1000 / 1.01)
