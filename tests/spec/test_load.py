"""A spec file becomes trials: in which order, under which names, with which values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dft_sweeps.spec.expand import short_name, shown, trial_name
from dft_sweeps.spec.load import load_sweep
from dft_sweeps.spec.models import DftObjective, SftObjective
from dft_sweeps.spec.yaml_lines import dump
from tests.spec.example import SPEC, edited, section, write

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("path", sorted((ROOT / "sweep_specs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_spec_loads(path: Path) -> None:
    sweep = load_sweep(path)
    assert sweep.spec.name == path.stem.replace("_", "-")
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_trials_come_in_the_order_of_the_spec(tmp_path: Path) -> None:
    trials = load_sweep(write(tmp_path)).trials
    assert [trial.name for trial in trials] == [
        f"{variant} objective={objective} learning_rate={rate}"
        for variant in ("noisy", "clean")
        for objective in ("sft", "dft")
        for rate in ("3e-4", "1e-3")
    ]
    assert trials[3].axes == {"variant": "noisy", "train.objective.kind": "dft", "train.learning_rate": 1e-3}
    assert isinstance(trials[3].spec.train.objective, DftObjective)
    assert [trial.spec.data.source.wrong_steps for trial in trials] == [0.1] * 4 + [0.0] * 4
    assert {trial.spec.train.batch_size for trial in trials} == {32}


def test_a_variant_that_sets_an_axis_has_one_trial_for_it(tmp_path: Path) -> None:
    text = edited("{data.source.wrong_steps: 0.0}", "{data.source.wrong_steps: 0.0, train.objective.kind: dft}")
    trials = load_sweep(write(tmp_path, text)).trials
    assert [trial.name for trial in trials[4:]] == ["clean objective=dft learning_rate=3e-4",
                                                    "clean objective=dft learning_rate=1e-3"]  # fmt: skip
    assert list(trials[4].axes) == ["variant", "train.objective.kind", "train.learning_rate"]


def test_an_axis_of_whole_objects(tmp_path: Path) -> None:
    text = edited("train.objective.kind: [sft, dft]", "train.objective: [{kind: sft}, {kind: dft}]")
    trials = load_sweep(write(tmp_path, text)).trials
    assert [type(trial.spec.train.objective) for trial in trials[::2]] == [SftObjective, DftObjective] * 2
    assert trials[0].name == "noisy objective=sft learning_rate=3e-4"
    powers = edited("train.objective.kind: [sft, dft]", "train.objective: [{kind: power, alpha: 0.5}, {kind: dft}]")
    assert load_sweep(write(tmp_path, powers)).trials[0].name == "noisy objective=power(alpha=0.5) learning_rate=3e-4"


def test_without_axes_and_variants_there_is_one_trial(tmp_path: Path) -> None:
    text = SPEC.replace(section("axes"), "").replace(section("variants"), "")
    [trial] = load_sweep(write(tmp_path, text)).trials
    assert (trial.name, trial.axes) == ("trial", {})


def test_axes_may_give_what_the_template_lacks(tmp_path: Path) -> None:
    text = edited("    objective: {kind: sft}\n    learning_rate: 1e-3\n", "").replace("    steps: 60\n", "")
    text = text.replace("  train.learning_rate", "  train.epochs: [1, 2]\n  train.learning_rate")
    assert len(load_sweep(write(tmp_path, text)).trials) == 16


def test_names_stay_clear_when_fields_share_one() -> None:
    assert short_name("train.objective.kind") == "objective"
    axes = {"train.seed": 1, "data.seed": 2, "train.batch_size": 8}
    assert trial_name(axes) == "train.seed=1 data.seed=2 batch_size=8"
    assert trial_name({"train.learning_rate": 0.00030000001}) == "learning_rate=3.0000001e-4"


@pytest.mark.parametrize(
    ("value", "text"),
    [(3e-4, "3e-4"), (0.001, "1e-3"), (2.5e-5, "2.5e-5"), (-3e-4, "-3e-4"), (0.00030000001, "3.0000001e-4"),
     (0.05, "0.05"), (1.0, "1"), (0.1234567891, "0.1234567891"), (64, "64"), (0.0, "0"),
     ({"kind": "dft"}, "dft"), ({"kind": "power", "alpha": 0.5}, "power(alpha=0.5)"),
     ({"kind": "iw_sft", "level": "token", "low": 1e-3}, "iw_sft(level=token, low=1e-3)"),
     ({"beta1": 0.9, "beta2": 0.95}, "(beta1=0.9, beta2=0.95)"), ({}, "()"),
     (None, "none"), (True, "true"), (False, "false"), ([1, 2], "[1, 2]")],
)  # fmt: skip
def test_values_as_people_write_them(value: object, text: str) -> None:
    assert shown(value) == text


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "train.learning_rate": st.floats(1e-9, 1.0),
    "train.optimizer.weight_decay": st.floats(0.0, 1e6),
    "train.schedule.kind": st.sampled_from(["cosine", "constant"]),
    "train.objective": st.sampled_from([{"kind": "sft"}, {"kind": "power", "alpha": 0.5}, {"kind": "iw_sft"}]),
    "preset": st.sampled_from(["corrected", "paper"]),
    "train.seed": st.integers(0, 2**63 - 1),
    "data.seed": st.integers(0, 2**63 - 1),
    "data.source.seed": st.integers(0, 2**63 - 1),
    "data.source.levels": st.sampled_from([[1], [2, 3], [1, 2, 3]]),
}
AXES = st.lists(st.sampled_from(sorted(VALUES)), unique=True, max_size=4).flatmap(
    lambda paths: st.fixed_dictionaries(
        {path: st.lists(VALUES[path], min_size=1, max_size=3, unique_by=repr) for path in paths}
    )
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(axes=AXES, variants=st.integers(0, 3))
def test_every_combination_is_a_trial_with_a_name_of_its_own(axes: dict, variants: int, tmp_path: Path) -> None:
    bundles = [{"name": f"v{i}", "set": {"train.batch_size": 32 * (i + 1)}} for i in range(variants)]
    text = SPEC.replace(section("axes"), dump({"axes": axes})).replace(section("variants"), dump({"variants": bundles}))
    sweep = load_sweep(write(tmp_path, text))
    assert len(sweep.trials) == math.prod(map(len, axes.values())) * max(variants, 1)
    assert len({trial.name for trial in sweep.trials}) == len(sweep.trials)
    for trial in sweep.trials:
        stated = trial.spec.model_dump(mode="json")
        for path, value in trial.axes.items():
            if path != "variant":
                found = stated
                for name in path.split("."):
                    found = found[name]
                given = {name: found[name] for name in value} if isinstance(value, dict) else found
                assert given == value
    write(tmp_path, sweep.resolved_yaml())
    again = load_sweep(tmp_path / "study.yaml")
    assert (again.spec, again.trials) == (sweep.spec, sweep.trials)


def test_overrides(tmp_path: Path) -> None:
    overrides = [
        "trial.train.steps=20",
        "trial.evaluation.samplings.greedy={temperature: 0, max_new_tokens: 8}",
        "trial.data.samples=100",
        "axes.train.learning_rate=[1e-5]",
        "axes.train.seed=[1, 2]",
        "pool.replicas=2",
        "variants=[]",
        "description=a=b",
    ]
    sweep = load_sweep(write(tmp_path), overrides)
    assert [trial.name for trial in sweep.trials] == [
        f"objective={objective} learning_rate=1e-5 seed={seed}" for objective in ("sft", "dft") for seed in (1, 2)
    ]
    spec = sweep.trials[0].spec
    assert (spec.train.steps, spec.data.samples, sweep.spec.pool.replicas) == (20, 100, 2)
    assert list(spec.evaluation.samplings) == ["sampled", "greedy"]
    assert sweep.spec.description == "a=b"


FILES = """\
name: files
trial:
  model: {path: policy}
  data: {source: {kind: file, path: rows.jsonl}}
  train: {objective: {kind: sft}, learning_rate: 1e-3, batch_size: 1, steps: 1}
  evaluation:
    benchmarks: [{name: gsm8k, path: ../questions.jsonl}]
    samplings: {sampled: {}}
"""


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    """A directory with a spec and the files it names."""
    directory = tmp_path / "specs"
    (directory / "policy").mkdir(parents=True)
    (directory / "rows.jsonl").touch()
    (tmp_path / "questions.jsonl").touch()
    return write(directory, FILES)


def test_paths_of_overrides_start_at_the_current_directory(
    specs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    mine = tmp_path / "work" / "rows.jsonl"
    mine.touch()
    assert load_sweep(specs).trials[0].spec.data.source.path == "rows.jsonl"
    for override in (
        "trial.data.source.path=rows.jsonl",
        "trial.data.source={kind: file, path: ./rows.jsonl}",
        "axes.data.source.path=[rows.jsonl]",
    ):
        assert load_sweep(specs, [override]).trials[0].spec.data.source.path == str(mine)
    hub = load_sweep(specs, ["trial.model.path=Qwen/Qwen2.5-0.5B"])
    assert hub.trials[0].spec.model.path == "Qwen/Qwen2.5-0.5B"
    (tmp_path / "work" / "embedded").mkdir()
    assert load_sweep(specs, ["trial.model.path=embedded"]).trials[0].spec.model.path == "embedded"
    nested = load_sweep(specs, ["trial.model.path=./embedded"]).trials[0].spec.model.path
    assert nested == str(tmp_path / "work" / "embedded")


def test_a_stored_spec_means_the_same_anywhere(specs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(specs.parent)
    stored = load_sweep(Path(specs.name), ["trial.train.steps=3", "trial.model.revision='1234e567'"]).resolved_yaml()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    again = load_sweep(write(tmp_path / "elsewhere", stored))
    spec = again.trials[0].spec
    assert (spec.train.steps, spec.model.revision) == (3, "1234e567")
    assert spec.model.path == str(specs.parent / "policy")
    assert spec.data.source.path == str(specs.parent / "rows.jsonl")
    assert spec.evaluation.benchmarks[0].path == str(tmp_path / "questions.jsonl")
    assert again.resolved_yaml() == stored
    assert yaml.safe_load(stored)["trial"]["train"]["steps"] == 3
