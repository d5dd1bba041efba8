"""Schedulers in a spec: what they add to the evaluated steps, what is refused, and who competes with whom."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.load import Sweep, load_sweep
from dft_sweeps.spec.rungs import check_rungs, group_of, promotions, reaching
from dft_sweeps.spec.scheduler_models import AshaScheduler

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


# --- how many are expected to train how far ---------------------------------------------------------------------------


def promoted(ranks: tuple[int, ...], factor: float) -> int:
    """Of trials that are measured in this order, the lowest rank best, and promoted as soon as they may be."""
    gone: set[int] = set()
    for count in range(1, len(ranks) + 1):
        gone.update(sorted(ranks[:count])[: int(count / factor + 1e-9)])
    return max(1, len(gone))


@pytest.mark.parametrize("factor", [1.01, 1.5, 2.0, 3.0, 4.0, 7.0])
def test_promotions_are_the_mean_over_all_orders(factor: float) -> None:
    expected = promotions(factor)
    assert expected[0] == 0
    for trials in range(1, 8):
        orders = itertools.permutations(range(trials))
        assert expected[trials] == pytest.approx(fmean(promoted(order, factor) for order in orders))


def asha(factor: float, *rungs: int) -> AshaScheduler:
    return AshaScheduler(kind="asha", rungs=rungs or (6, 18), reduction_factor=factor)


def test_how_many_reach_each_rung() -> None:
    """As `Halving` promotes 27 trials measured one by one, on the average of 300 orders: 10.4 to 10.5, 3.9 to 4.1."""
    assert reaching(27, asha(3)) == pytest.approx([27, 10.43, 3.85], abs=0.01)
    assert reaching(9, asha(3)) == pytest.approx([9, 3.43, 1.11], abs=0.01)
    assert reaching(2, asha(3)) == [2, 1, 1]  # the best always goes on
    assert reaching(0, asha(3)) == [0, 0, 0]
    assert reaching(9, asha(100)) == [9, 1, 1]


@settings(deadline=None)
@given(
    trials=st.integers(0, 3000), factor=st.sampled_from([1.01, 1.3, 2.0, 2.5, 3.0, 10.0, 50.0]), more=st.integers(1, 50)
)
def test_ever_fewer_go_on_and_more_of_more_trials(trials: int, factor: float, more: int) -> None:
    counts = reaching(trials, asha(factor))
    assert counts[0] == trials and counts == sorted(counts, reverse=True)
    assert all(count >= min(trials, 1) for count in counts)
    assert counts[1] >= 0.99 * int(trials / factor)
    assert all(
        count <= other + 1e-9 for count, other in zip(counts, reaching(trials + more, asha(factor)), strict=True)
    )


@given(trials=st.integers(1, 900))
def test_with_a_factor_near_1_nearly_all_go_on(trials: int) -> None:
    """The worst of all never does, where the factor is above 1."""
    assert reaching(trials, asha(1 + 1e-12)) == pytest.approx([trials] * 3)
    assert reaching(trials, asha(1 + 1e-5)) == pytest.approx([trials, max(1, trials - 1), max(1, trials - 2)], rel=1e-3)


def test_trials_compete_with_those_before_them() -> None:
    alone = reaching(9, asha(3, 6))[1]
    stopped_early = reaching(9, asha(3, 6), [9, 0])[1]  # none of 9 that wait at the rung has gone on yet
    assert stopped_early == reaching(18, asha(3, 6))[1] > alone
    assert reaching(9, asha(3, 6), [9, 9])[1] == reaching(18, asha(3, 6))[1] / 2
    assert reaching(2, asha(3, 6), [9, 0])[1] == 2
    assert reaching(0, asha(3, 6), [9, 3]) == [0, 0]
