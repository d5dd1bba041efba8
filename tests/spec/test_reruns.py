"""Which trials of a stored sweep are run again, and what further seeds make of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.load import Sweep, load_sweep
from dft_sweeps.spec.reruns import of_figure, rerun, wanted
from tests.spec.example import SPEC, edited

POWERS = edited("train.objective.kind: [sft, dft]", "train.objective: [{kind: sft}, {kind: power, alpha: 0.5}]")


def stored(directory: Path, text: str = SPEC) -> str:
    (directory / "study.yaml").write_text(text)
    return load_sweep(directory / "study.yaml").resolved_yaml()


def asked(directory: Path, *cells: str, text: str = SPEC) -> set[str]:
    return set(wanted(rerun(stored(directory, text), "stored"), cells))


def refusal(directory: Path, *cells: str, text: str = SPEC) -> str:
    with pytest.raises(SpecError) as caught:
        asked(directory, *cells, text=text)
    return str(caught.value)


def contents(found: Sweep) -> list[dict]:
    return [trial.spec.model_dump() for trial in found.trials]


def test_a_stored_sweep_is_the_sweep_that_was_stored(tmp_path: Path) -> None:
    text = stored(tmp_path)
    found = rerun(text, "stored")
    before = load_sweep(tmp_path / "study.yaml")
    assert contents(found) == [trial.spec.model_dump() for trial in before.trials]
    assert wanted(found) == {trial.name for trial in before.trials}
    assert found.resolved_yaml() == text


def test_a_mistake_in_an_override_names_it_and_one_in_the_spec_its_line(tmp_path: Path) -> None:
    text = stored(tmp_path)
    with pytest.raises(SpecError, match=r"--set trial\.train\.stepz=3: unknown field 'stepz'"):
        rerun(text, "stored", ["trial.train.stepz=3"])
    line = text[: text.index("steps: 60")].count("\n") + 1
    with pytest.raises(SpecError, match=f"^the stored spec:{line}: trial.train.steps: should be at least 1, found 0"):
        rerun(text.replace("steps: 60", "steps: 0"), "the stored spec")


def test_a_cell_is_one_trial_of_every_variant_and_spelling_does_not_matter(tmp_path: Path) -> None:
    for value in ("3e-4", "0.0003", "3.0e-4"):
        assert asked(tmp_path, f"train.learning_rate={value},train.objective.kind=dft") == {
            "noisy objective=dft learning_rate=3e-4", "clean objective=dft learning_rate=3e-4"
        }  # fmt: skip


def test_cells_add_up_and_conditions_narrow(tmp_path: Path) -> None:
    every = asked(tmp_path)
    assert len(every) == 8
    assert asked(tmp_path, "variant=clean", "variant=noisy") == every
    one = asked(tmp_path, "variant=clean, train.objective.kind=sft, train.learning_rate=1e-3")
    assert len(one) == 1
    assert asked(tmp_path, "train.objective.kind=sft") | asked(tmp_path, "train.objective.kind=dft") == every


def test_a_cell_may_name_any_field_also_one_with_a_default(tmp_path: Path) -> None:
    assert len(asked(tmp_path, "data.source.wrong_steps=0")) == 4  # of the variant `clean`
    assert len(asked(tmp_path, "train.seed=0")) == 8
    assert len(asked(tmp_path, "train.objective.alpha=0.5", text=POWERS)) == 4
    whole = asked(tmp_path, "train.objective={kind: power, alpha: 0.5}", text=POWERS)
    assert whole == asked(tmp_path, "train.objective.kind=power", text=POWERS)


def test_what_is_in_no_cell_is_refused_with_what_there_is(tmp_path: Path) -> None:
    message = refusal(tmp_path, "train.rate=1e-3")
    assert "unknown field 'rate'" in message
    assert "axes are variant: noisy, clean; train.objective.kind: sft, dft; train.learning_rate: 3e-4, 1e-3" in message
    message = refusal(tmp_path, "train.learning_rate=2e-3")
    assert "--cell train.learning_rate=2e-3: no trial of the sweep has train.learning_rate 2e-3; there are" in message
    assert "3e-4" in message
    message = refusal(tmp_path, "variant=noisy,data.source.wrong_steps=0.0")
    assert "none meets all of them" in message
    assert "has the form path=value" in refusal(tmp_path, "dft")


def test_failed_trials_are_narrowed_by_cells(tmp_path: Path) -> None:
    text = stored(tmp_path)
    sweep = rerun(text, "stored")
    names = sorted(wanted(sweep))
    assert wanted(sweep, failed=names[:3]) == set(names[:3])
    of_sft = wanted(sweep, ["train.objective.kind=sft"], names)
    assert of_sft == {name for name in names if "sft" in name}
    assert wanted(sweep, failed=[]) == set()


def test_points_that_are_proposed_for_each_seed_have_no_further_seeds(tmp_path: Path) -> None:
    space = "  space: {train.batch_size: {kind: choice, values: [8, 16, 32, 64]}}\n"
    drawn, proposed = (
        stored(tmp_path, edited("axes:\n", f"search:\n  kind: {kind}\n  trials: 3\n{space}axes:\n"))
        for kind in ("random", "tpe\n  batch: 2")
    )
    before, after = rerun(drawn, "stored"), rerun(drawn, "stored", seeds=2)
    assert {str(trial.point) for trial in after.trials} == {str(trial.point) for trial in before.trials}
    assert len(after.trials) == 2 * len(before.trials)
    with pytest.raises(SpecError, match="--seeds 2: a TPE search proposes other points for every seed"):
        rerun(proposed, "stored", seeds=2)


def test_further_seeds_keep_every_trial_there_is(tmp_path: Path) -> None:
    text = stored(tmp_path, edited("steps: 60", "steps: 60\n    seed: 4"))
    before, after = rerun(text, "stored"), rerun(text, "stored", seeds=3)
    assert len(after.trials) == 3 * len(before.trials)
    assert [each for each in contents(after) if each["train"]["seed"] == 4] == contents(before)
    assert {each["train"]["seed"] for each in contents(after)} == {4, 5, 6}
    assert after.spec.name == before.spec.name
    stored_again = rerun(after.resolved_yaml(), "stored", seeds=4)  # it has an axis of seeds now
    assert {each["train"]["seed"] for each in contents(stored_again)} == {4, 5, 6, 7}
    assert rerun(text, "stored", seeds=1).spec == before.spec


def test_seeds_can_only_be_added_and_only_by_an_axis(tmp_path: Path) -> None:
    three = rerun(stored(tmp_path), "stored", seeds=3).resolved_yaml()
    with pytest.raises(SpecError, match="--seeds 2: the sweep has 3 seeds already: 0, 1, 2"):
        rerun(three, "stored", seeds=2)
    own = edited("set: {data.source.wrong_steps: 0.0}", "set: {train.seed: 3}")
    with pytest.raises(SpecError, match=r"a variant of the sweep sets train\.seed itself"):
        rerun(stored(tmp_path, own), "stored", seeds=2)


def test_the_sweeps_of_a_figure_begin_with_its_name() -> None:
    names = ["figure3-rate", "figure31", "figure_3_quickstart", "figure3-rate", "my-figure3", "figure1", "figure-3"]
    newest_first = [(name, age) for age, name in enumerate(names)]
    assert of_figure(newest_first, 3) == [6, 2, 0]
    with pytest.raises(SpecError, match="begin with figure2, as none of these do: figure3-rate, figure31, "):
        of_figure(newest_first, 2)
    with pytest.raises(SpecError, match="there are no sweeps yet"):
        of_figure([], 2)


def test_true_is_not_one_and_nan_is_no_value(tmp_path: Path) -> None:
    assert "no trial of the sweep has train.optimizer.beta1 true" in refusal(tmp_path, "train.optimizer.beta1=true")
    assert "no trial of the sweep has train.learning_rate .nan" in refusal(tmp_path, "train.learning_rate=.nan")
