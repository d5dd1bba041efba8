"""What a search makes of a spec, what stays as it is when the search changes, and what is said about its mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dft_sweeps.spec.expand import Trial, trial_name
from dft_sweeps.spec.identity import course_of, sweep_id
from dft_sweeps.spec.load import Sweep, load_stored, load_sweep
from dft_sweeps.spec.points import TooFewPoints, drawn, points_in, spelling
from dft_sweeps.spec.search_models import Choice, Domain, LogUniform, Uniform
from tests.spec.example import SPEC, section, write
from tests.spec.test_bad_specs import refusal

RATE = LogUniform(kind="log_uniform", low=1e-5, high=1e-2)
ALPHA = Uniform(kind="uniform", low=0.0, high=2.0)
BATCH = Choice(kind="choice", values=(8, 16, 32))
SPACE: dict[str, Domain] = {"train.learning_rate": RATE, "train.batch_size": BATCH}
RANDOM = """\
search:
  kind: random
  trials: 5
  seed: 3
  space:
    train.learning_rate: {kind: log_uniform, low: 1e-5, high: 1e-2}
    train.batch_size: {kind: choice, values: [8, 16, 32]}
"""
TPE = RANDOM.replace("random", "tpe").replace("seed: 3", "batch: 2")
RATES = "  train.learning_rate: [3e-4, 1e-3]\n"
SEARCHED = SPEC.replace(RATES, "")


def searched(directory: Path, search: str = RANDOM, *overrides: str) -> Sweep:
    return load_sweep(write(directory, f"{SEARCHED}\n{search}"), overrides)


def points(trials: tuple[Trial, ...]) -> list[dict]:
    return list({spelling(trial.point): trial.point for trial in trials}.values())


def test_the_points_of_a_seed_are_these_for_ever() -> None:
    space = {**SPACE, "train.objective.alpha": ALPHA}
    assert drawn(space, 3, 4) == [
        {"train.learning_rate": 1.11e-4, "train.batch_size": 8, "train.objective.alpha": 1.11},
        {"train.learning_rate": 3.61e-5, "train.batch_size": 16, "train.objective.alpha": 0.607},
        {"train.learning_rate": 4.49e-4, "train.batch_size": 16, "train.objective.alpha": 0.723},
        {"train.learning_rate": 7.68e-4, "train.batch_size": 32, "train.objective.alpha": 0.655},
    ]


@given(st.integers(0, 2**32), st.integers(1, 12), st.sampled_from([RATE, ALPHA, BATCH]))
def test_a_further_dimension_and_further_points_leave_what_was_drawn(seed: int, count: int, more: Domain) -> None:
    before = [point["a"] for point in drawn({"a": RATE}, seed, count)]
    wider = [point["a"] for point in drawn({"b": more, "a": RATE}, seed, count + 3)]
    for index, value in enumerate(before):
        assert value == wider[index] or wider[index] in wider[:index]  # which is drawn anew where it is all there is


@given(st.integers(0, 2**32), st.floats(1e-6, 1.0), st.floats(1.5, 100.0))
def test_numbers_lie_within_and_are_what_a_table_shows(seed: int, low: float, times: float) -> None:
    domains = {
        "a": Uniform(kind="uniform", low=low, high=low * times),
        "b": LogUniform(kind="log_uniform", low=low, high=low * times),
    }
    for point in drawn(domains, seed, 5):
        for value in point.values():
            assert low <= value <= low * times
            assert float(f"{value:.3g}") == value or value in (low, low * times)


@given(st.integers(0, 1000))
def test_every_point_of_a_space_of_choices_is_drawn_once(seed: int) -> None:
    space: dict[str, Domain] = {"a": BATCH, "b": Choice(kind="choice", values=({"kind": "sft"}, {"kind": "dft"}))}
    assert points_in(space) == 6
    assert len({spelling(point) for point in drawn(space, seed, 6)}) == 6
    with pytest.raises(TooFewPoints, match="7 points of a space of 6"):
        drawn(space, seed, 7)


def test_a_range_too_narrow_for_three_digits_has_few_points() -> None:
    narrow: dict[str, Domain] = {"a": Uniform(kind="uniform", low=0.9991, high=0.9999)}
    with pytest.raises(TooFewPoints, match="3 significant digits"):
        drawn(narrow, 0, 5)


def test_the_same_points_for_every_arm_and_arms_beside_each_other(tmp_path: Path) -> None:
    trials = searched(tmp_path).trials
    assert len(trials) == 5 * 4
    arms = [("noisy", "sft"), ("noisy", "dft"), ("clean", "sft"), ("clean", "dft")]
    assert [trial.arm for trial in trials] == arms * 5
    by_arm = [[trial.point for trial in trials if trial.arm == arm] for arm in arms]
    assert by_arm == [drawn(SPACE, 3, 5)] * 4
    first = trials[0]
    assert first.axes == {"variant": "noisy", "train.objective.kind": "sft", **first.point}
    assert first.name == trial_name(first.axes)
    assert first.spec.train.learning_rate == first.point["train.learning_rate"]
    assert first.spec.train.batch_size == first.point["train.batch_size"]


def test_a_stored_search_is_the_search_that_was_stored(tmp_path: Path) -> None:
    for search in (RANDOM, TPE):
        sweep = searched(tmp_path, search)
        again = load_stored(sweep.resolved_yaml(), "stored")
        assert again.spec == sweep.spec
        assert [trial.spec for trial in again.trials] == [trial.spec for trial in sweep.trials]


def test_a_choice_of_files_is_stored_by_where_they_are(tmp_path: Path) -> None:
    space = "    data.source: {kind: choice, values: [{kind: file, path: a.jsonl}, {kind: file, path: b.jsonl}]}\n"
    text = SPEC.replace(section("variants"), "") + "\nsearch:\n  kind: random\n  trials: 2\n  space:\n" + space
    stored = load_sweep(write(tmp_path, text)).resolved_yaml()
    assert {trial.spec.data.source.path for trial in load_stored(stored, "/elsewhere/spec.yaml").trials} == {
        str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")
    }  # fmt: skip
    paths = space.replace("data.source:", "data.source.path:").replace("{kind: file, path: a.jsonl}", "a.jsonl")
    text = text.replace(space, paths.replace("{kind: file, path: b.jsonl}", "b.jsonl"))
    text = text.replace("{kind: arithmetic, samples: 320, wrong_steps: 0.1, seed: 11}", "{kind: file, path: x}")
    assert str(tmp_path / "b.jsonl") in load_sweep(write(tmp_path, text)).resolved_yaml()


def test_a_tpe_search_begins_with_its_first_batch_and_takes_further_points(tmp_path: Path) -> None:
    sweep = searched(tmp_path, TPE)
    assert (len(sweep.trials), sweep.to_propose) == (2 * 4, 3 * 4)
    assert points(sweep.trials) == drawn(SPACE, 0, 2)
    arms = list(dict.fromkeys(trial.arm for trial in sweep.trials))
    own = {arm: [{"train.learning_rate": 1e-3, "train.batch_size": 8 * 2**n}] for n, arm in enumerate(arms[:3])}
    further = own | {arms[3]: [{"train.learning_rate": 2e-3, "train.batch_size": 8}]}
    grown = sweep.with_points(further)
    assert grown.trials[:8] == sweep.trials
    assert [(trial.arm, [trial.point]) for trial in grown.trials[8:]] == list(further.items())
    assert grown.to_propose == 2 * 4
    assert searched(tmp_path).to_propose == 0


def test_an_override_of_a_dimension_and_one_that_a_search_covers(tmp_path: Path) -> None:
    sweep = searched(tmp_path, RANDOM, "search.space.train.learning_rate.low=5e-3")
    assert all(trial.spec.train.learning_rate >= 5e-3 for trial in sweep.trials)
    whole = searched(tmp_path, RANDOM, "search.space.train.learning_rate={kind: choice, values: [1e-3, 2e-3]}")
    assert {trial.spec.train.learning_rate for trial in whole.trials} == {1e-3, 2e-3}
    message = refusal(write(tmp_path, f"{SEARCHED}\n{RANDOM}"), "trial.train.batch_size=4")
    assert message.endswith("set search.space.train.batch_size={...} instead")
    rate = "search.space.train.rate={kind: choice, values: [1, 2]}"
    unknown = refusal(write(tmp_path, f"{SEARCHED}\n{RANDOM}"), rate)
    assert unknown.startswith(f"--set {rate}: search.space.train.rate: unknown field 'rate'")


def test_what_decides_the_course_of_a_sweep_is_in_its_id(tmp_path: Path) -> None:
    assert course_of(load_sweep(write(tmp_path)).spec) == {} == course_of(searched(tmp_path).spec)
    ids = ["t-1", "t-2"]
    assert sweep_id("a", ids, "m") == sweep_id("a", ids, "m", {}) == "s-1ce536c2279692cd"
    course = course_of(searched(tmp_path, TPE).spec)
    assert sweep_id("a", ids, "m", course) == "s-4383a0f1b0fa4887"
    asha = "scheduler: {kind: asha, rungs: [10, 30]}\n"
    halved = course_of(load_sweep(write(tmp_path, f"{SPEC}\n{asha}")).spec)
    assert sweep_id("a", ids, "m", halved) == "s-2ccb453845c20ecd"
    other = course_of(searched(tmp_path, TPE, "search.trials=6").spec)
    assert len({sweep_id("a", ids, "m", each) for each in ({}, course, halved, other)}) == 4


BAD = {
    "axis as a dimension": ("train.objective.kind: {kind: choice, values: [sft, dft]}", "",
                            "search.space.train.objective.kind", "`axes` has train.objective.kind too"),
    "dimension of a variant": ("data.source.wrong_steps: {kind: uniform, low: 0, high: 1}", "",
                               "search.space.data.source.wrong_steps", "`variants[1]` sets data.source.wrong_steps"),
    "dimension within an axis": ("train.objective: {kind: choice, values: [{kind: sft}, {kind: dft}]}", "",
                                 "axes.train.objective.kind", "`train.objective` is set too"),
    "dimension of what is measured": ("evaluation.every: {kind: choice, values: [5, 10]}", "",
                                      "search.space.evaluation.every", "no axis, variant or search can change them"),
    "unknown dimension": ("train.learnig_rate: {kind: log_uniform, low: 1e-5, high: 1e-2}", "",
                          "search.space.train.learnig_rate", "did you mean 'learning_rate'?"),
    "unknown kind of domain": ("train.learning_rate: {kind: loguniform, low: 1e-5, high: 1e-2}", "",
                               "search.space.train.learning_rate.kind", "did you mean 'log_uniform'?"),
    "no kind of domain": ("train.learning_rate: {low: 1e-5, high: 1e-2}", "",
                          "search.space.train.learning_rate", "needs a `kind`: choice, log_uniform, uniform"),
    "domain the wrong way round": ("train.learning_rate: {kind: uniform, low: 1e-2, high: 1e-5}", "",
                                   "search.space.train.learning_rate", "low is 0.01, not below high, which is 1e-05"),
    "logarithm of nothing": ("train.learning_rate: {kind: log_uniform, low: 0, high: 1e-2}", "",
                             "search.space.train.learning_rate.low", "should be more than 0.0"),
    "end that is no learning rate": ("train.learning_rate: {kind: uniform, low: 0.5, high: 7.0}", "",
                                     "search.space.train.learning_rate.high", "should be at most 1.0, found 7.0"),
    "range of whole numbers": ("train.batch_size: {kind: uniform, low: 8, high: 64}", "",
                               "search.space.train.batch_size.kind", "takes whole numbers; list values in a choice"),
    "range of words": ("train.schedule.kind: {kind: uniform, low: 0, high: 1}", "",
                       "search.space.train.schedule.kind.kind", "takes no numbers; list values in a choice"),
    "one value": ("train.batch_size: {kind: choice, values: [8]}", "",
                  "search.space.train.batch_size", "at least two values; found 1"),
    "value twice": ("train.batch_size: {kind: choice, values: [8, 16, 8]}", "",
                    "search.space.train.batch_size.values[2]", "the value 8 is given twice"),
    "values of one meaning": ("train.learning_rate: {kind: choice, values: [0.5, 1, 1.0]}", "",
                              "search.space.train.learning_rate.values[2]", "the values 1 and 1 make the same trials"),
    "bad value of a choice": ("train.batch_size: {kind: choice, values: [8, 0]}", "",
                              "search.space.train.batch_size.values[1]", "should be at least 1, found 0"),
    "field of another objective": ("train.objective.alpha: {kind: uniform, low: 0, high: 1}", "",
                                   "search.space.train.objective.alpha.low", "unknown field 'alpha'"),
    "more trials than points": ("train.batch_size: {kind: choice, values: [8, 16]}", "",
                                "search.trials", "5 points of a space of 2"),
    "empty space": ("", "", "search.space", "should be a mapping"),
    "no trials": ("train.batch_size: {kind: choice, values: [8, 16, 32]}", "trials: 5|trials: 0",
                  "search.trials", "should be at least 1, found 0"),
    "unknown kind of search": ("train.batch_size: {kind: choice, values: [8, 16]}", "kind: random|kind: bayes",
                               "search.kind", "unknown kind 'bayes'; valid are grid, random, tpe"),
    "batch of a random search": ("train.batch_size: {kind: choice, values: [8, 16]}", "trials: 5|batch: 2",
                                 "search.batch", "unknown field 'batch'"),
    "all in one batch": ("train.batch_size: {kind: choice, values: [8, 16]}", "kind: random|kind: tpe\n  batch: 5",
                         "search", "trials is 5 and batch 5, so that no point is proposed"),
    "unknown sampling": ("train.learning_rate: {kind: uniform, low: 0.1, high: 0.2}",
                         "kind: random|kind: tpe\n  sampling: sampeld", "search.sampling", "did you mean 'sampled'?"),
}  # fmt: skip
"""Name to the one dimension, what of the rest is replaced by what, and the path and words of the message."""


@pytest.mark.parametrize(("dimension", "change", "path", "words"), BAD.values(), ids=BAD)
def test_bad_search(dimension: str, change: str, path: str, words: str, tmp_path: Path) -> None:
    old, _, new = change.partition("|")
    search = RANDOM[: RANDOM.index("    train.")].replace(old, new) + f"    {dimension}\n"
    text = f"{SEARCHED}\n{search}"
    message = refusal(write(tmp_path, text))
    assert f": {path}: " in message
    assert text.splitlines()[_line_of(message, tmp_path) - 1].strip().startswith(_key_at(path))
    assert words in message


@pytest.mark.parametrize("evaluation", ["", " 3", " [sampled]"])
def test_a_search_by_a_sampling_of_no_evaluation(evaluation: str, tmp_path: Path) -> None:
    start, end = SEARCHED.index("  evaluation:"), SEARCHED.index("\naxes:")
    tpe = TPE.replace("kind: tpe", "kind: tpe\n  sampling: sampled")
    text = f"{SEARCHED[:start]}  evaluation:{evaluation}\n{SEARCHED[end:]}\n{tpe}"
    assert ": trial.evaluation: should be a mapping, found " in refusal(write(tmp_path, text))


def test_a_search_by_a_sampling_that_is_there_by_default(tmp_path: Path) -> None:
    start, end = SEARCHED.index("    samplings:"), SEARCHED.index("\naxes:")
    tpe = TPE.replace("kind: tpe", "kind: tpe\n  sampling: greedy")
    assert load_sweep(write(tmp_path, f"{SEARCHED[:start]}{SEARCHED[end:]}\n{tpe}")).to_propose


def _line_of(message: str, directory: Path) -> int:
    return int(message.removeprefix(f"{directory}/study.yaml:").split(":")[0])


def _key_at(path: str) -> str:
    """What the line begins with that a mistake at `path` is in: a dimension, an axis or a field of the search."""
    names = path.removeprefix("search.").removeprefix("space.").removeprefix("axes.")
    for end in (".kind", ".low", ".high", ".values[1]", ".values[2]"):
        names = names.removesuffix(end) if path.startswith("search.space.") else names
    return names if names != "train.schedule" else "train.schedule.kind"


def test_an_axis_of_seeds_and_a_search_of_all_arms_is_bounded(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, f"{SEARCHED}\n{RANDOM.replace('trials: 5', 'trials: 3000')}"))
    assert "search.trials: 3,000 points for each of 4 combinations of axes and variants; at most 10,000" in message
