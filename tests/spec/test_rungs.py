"""Schedulers in a spec: what they add to the evaluated steps, what is refused, and who competes with whom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.load import Sweep, load_sweep
from dft_sweeps.spec.rungs import check_rungs, expected_steps, group_of, reaching
from dft_sweeps.spec.scheduler_models import AshaScheduler, FifoScheduler

SPEC = """\
name: rungs
trial:
  data: {source: {kind: arithmetic, samples: 64}}
  train: {objective: {kind: sft}, learning_rate: 1e-3, batch_size: 8, steps: 60}
  evaluation:
    benchmarks: [arithmetic_1]
    every: 20
    key_steps: [7]
    samplings: {sampled: {}, greedy: {temperature: 0.0}}
axes:
  train.objective.kind: [sft, dft]
  train.learning_rate: [1e-4, 1e-3, 1e-2]
scheduler: {kind: asha, rungs: [7, 15, 40]}
"""


def loaded(directory: Path, old: str = "", new: str = "") -> Sweep:
    assert old in SPEC
    path = directory / "rungs.yaml"
    path.write_text(SPEC.replace(old, new, 1))
    return load_sweep(path)


def refusal(directory: Path, old: str, new: str) -> str:
    with pytest.raises(SpecError) as caught:
        loaded(directory, old, new)
    return str(caught.value).removeprefix(f"{directory}/")


def test_rungs_are_evaluated_and_those_that_were_are_not_named_again(tmp_path: Path) -> None:
    for trial in loaded(tmp_path).trials:
        assert trial.spec.evaluation.steps == (15,)
        assert trial.spec.evaluation.due(60) == (0, 7, 15, 20, 40, 60)
    [plain, *_] = loaded(tmp_path, "{kind: asha, rungs: [7, 15, 40]}", "{kind: fifo}").trials
    assert plain.spec.evaluation.steps == ()


def test_a_stored_spec_loads_to_the_same_trials(tmp_path: Path) -> None:
    sweep = loaded(tmp_path)
    again = tmp_path / "again.yaml"
    again.write_text(sweep.resolved_yaml())
    assert [trial.spec for trial in load_sweep(again).trials] == [trial.spec for trial in sweep.trials]
    assert load_sweep(again).spec.scheduler == sweep.spec.scheduler


def test_an_unknown_sampling_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, "rungs: [7, 15, 40]", "rungs: [7], sampling: gredy")
    assert message == "rungs.yaml:13: scheduler.sampling: no sampling 'gredy'; did you mean 'greedy'?"


def test_only_axes_are_apart(tmp_path: Path) -> None:
    message = refusal(tmp_path, "rungs: [7, 15, 40]", "rungs: [7], apart: [train.learning_rate, train.seed]")
    assert message == (
        "rungs.yaml:13: scheduler.apart[1]: 'train.seed' is no axis of the sweep; its axes are train.learning_rate, "
        "train.objective.kind"
    )


@pytest.mark.parametrize("rungs", ["[7, 7]", "[15, 7]", "[0, 7]"])
def test_rungs_rise_from_one(tmp_path: Path, rungs: str) -> None:
    message = refusal(tmp_path, "[7, 15, 40]", rungs)
    assert f"rungs are optimizer steps from 1 on, each above the one before; found {rungs}" in message


def test_a_rung_is_below_the_last_step(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, "[7, 15, 40]", "[7, 60]")
    check_rungs(sweep.spec, sweep.document, sweep.trials[0], 61)
    expected = "rungs.yaml:13: scheduler.rungs[1]: the rung 60 is not below the last step, which is 60 in the trial"
    with pytest.raises(SpecError, match=re.escape(expected)):
        check_rungs(sweep.spec, sweep.document, sweep.trials[0], 60)


def test_trials_compete_with_all_those_that_are_not_apart(tmp_path: Path) -> None:
    together = loaded(tmp_path)
    assert {group_of(together.spec, trial) for trial in together.trials} == {()}
    apart = loaded(tmp_path, "40]", "40], apart: [train.objective.kind]")
    groups = [group_of(apart.spec, trial) for trial in apart.trials]
    assert groups == [("sft",)] * 3 + [("dft",)] * 3


def test_with_a_search_arms_are_apart(tmp_path: Path) -> None:
    search = "search: {kind: random, trials: 4, space: {train.learning_rate: {kind: log_uniform, low: 1e-4, high: 1}}}"
    sweep = loaded(tmp_path, "  train.learning_rate: [1e-4, 1e-3, 1e-2]\n", f"{search}\n")
    groups = [group_of(sweep.spec, trial) for trial in sweep.trials]
    assert {group: groups.count(group) for group in groups} == {("sft",): 4, ("dft",): 4}


def test_what_halving_takes_together() -> None:
    asha = AshaScheduler(kind="asha", rungs=(10, 30), reduction_factor=3)
    assert reaching(9, asha) == [9, 3, 1]
    assert expected_steps(9, 90, asha) == 9 * 10 + 3 * 20 + 1 * 60
    assert reaching(2, asha) == [2, 1, 1]
    assert reaching(0, asha) == [0, 0, 0]
    assert expected_steps(9, 90, FifoScheduler()) == 810
