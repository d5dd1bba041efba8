"""A spec file that extends another is that other with some fields set; errors say in which file they were written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.load import Sweep, load_sweep
from tests.spec.example import SPEC, edited, write

CHANGES = """\
  trial.train.steps: 20
  axes.train.learning_rate: [1e-5, 3e-4]
  variants: []
  trial.data.source: {kind: arithmetic, samples: 64}
  trial.evaluation.benchmarks: [arithmetic_3]
  pool.replicas: 2
"""


def twin(directory: Path, changes: str, name: str = "twin.yaml", extends: str = "study.yaml") -> Path:
    path = directory / name
    path.write_text(f"extends: {extends}\nset:\n{changes}", encoding="utf-8")
    return path


def same(one: Sweep, other: Sweep) -> bool:
    return (one.spec, one.trials) == (other.spec, other.trials)


def test_set_has_the_meaning_of_the_option(tmp_path: Path) -> None:
    overrides = [line.strip().replace(": ", "=", 1) for line in CHANGES.splitlines()]
    plain = load_sweep(write(tmp_path), overrides)
    sweep = load_sweep(twin(tmp_path, CHANGES))
    assert same(sweep, plain)
    assert [trial.name for trial in sweep.trials] == [
        f"objective={objective} learning_rate={rate}" for objective in ("sft", "dft") for rate in ("1e-5", "3e-4")
    ]
    assert sweep.spec.name == "study"


def test_files_of_a_chain_apply_from_the_first_on_and_options_last(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "near").mkdir()
    twin(tmp_path, "  trial.train.steps: 20\n  trial.train.batch_size: 16\n  axes: {train.seed: [1, 2]}\n")
    last = twin(tmp_path / "near", "  trial.train.steps: 30\n  trial.train: {learning_rate: 1e-2, batch_size: 8,"
                " objective: {kind: dft}, epochs: 1}\n  trial.train.batch_size: 4\n", "last.yaml",
                "../twin.yaml")  # fmt: skip
    message = refusal(last)
    assert message == f"{last}:3: trial.train.steps: has no effect, for `trial.train` is set after it"
    last.write_text(last.read_text().replace("  trial.train.steps: 30\n", "") + "name: last\ndescription: 'the last'\n")
    sweep = load_sweep(last, ["trial.train.epochs=3", "variants=[]"])
    train = sweep.trials[1].spec.train
    assert (train.steps, train.epochs, train.batch_size, train.seed) == (None, 3, 4, 2)
    assert (sweep.spec.name, sweep.spec.description) == ("last", "the last")
    assert len(sweep.trials) == 2


def test_what_is_stored_stands_alone(tmp_path: Path) -> None:
    write(tmp_path)
    sweep = load_sweep(twin(tmp_path, CHANGES))
    stored = sweep.resolved_yaml()
    assert not {"extends", "set"} & yaml.safe_load(stored).keys()
    (tmp_path / "elsewhere").mkdir()
    assert same(load_sweep(write(tmp_path / "elsewhere", stored)), sweep)


FILES = """\
name: files
trial:
  model: {path: policy}
  data: {source: {kind: file, path: rows.jsonl}}
  train: {objective: {kind: sft}, learning_rate: 1e-3, batch_size: 1, steps: 1}
  evaluation: {benchmarks: [{name: gsm8k, path: gone.jsonl}], samplings: {sampled: {}}}
"""


def test_relative_paths_start_where_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, near = tmp_path / "base", tmp_path / "near"
    for directory in (base, near):
        (directory / "policy").mkdir(parents=True)
        (directory / "rows.jsonl").touch()
    write(base, FILES)
    twin(near, "  trial.train.steps: 2\n", extends="../base/study.yaml")
    monkeypatch.chdir(near)
    spec = load_sweep(Path("twin.yaml")).trials[0].spec
    assert spec.model.path == str(base / "policy")
    assert spec.data.source.path == str(base / "rows.jsonl")
    assert spec.evaluation.benchmarks[0].path == str(base / "gone.jsonl")
    own = twin(near, "  trial.data.source.path: rows.jsonl\n  trial.model.path: Qwen/Qwen3-0.6B\n",
               extends="../base/study.yaml")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    sweep = load_sweep(own)
    assert sweep.directory / sweep.trials[0].spec.data.source.path == near / "rows.jsonl"
    assert sweep.trials[0].spec.model.path == "Qwen/Qwen3-0.6B"
    os.symlink(own, tmp_path / "link.yaml")
    assert same(load_sweep(tmp_path / "link.yaml"), sweep)


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_sweep(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


AT = "{twin}:3: "
BAD_CHANGES = {
    "unknown field": ("  trial.train.stepz: 3", AT + "trial.train.stepz: unknown field 'stepz'; did you mean 'steps'?"),
    "field of an unknown axis": ("  axes.train.stepz: [3]", AT + "axes.train.stepz: unknown field 'stepz'"),
    "below a list": ("  variants.0.name: x", AT + "variants.0.name: `variants` is a list, which can only be set as a"),
    "wrong value": ("  trial.train.batch_size: 0", AT + "trial.train.batch_size: should be at least 1, found 0"),
    "wrong value in a mapping": ("  pool:\n    replicas: x", "{twin}:4: pool.replicas: should be a whole number"),
    "wrong value of an axis": (
        "  axes:\n    train.seed:\n      - 1\n      - x",
        "{twin}:6: axes.train.seed[1]: ",
    ),
    "covered by an axis": (
        "  trial.train.learning_rate: 1e-5",
        AT + "trial.train.learning_rate: has no effect, for every trial sets `train.learning_rate` anew; set axes.",
    ),
    "no mapping": ("  - trial.train.steps", "{twin}:2: set: should be a mapping of dotted paths to values, found the"),
    "nothing": ("", "{twin}:2: set: should be a mapping of dotted paths to values, found nothing"),
    "twice": ("  trial.train.steps: 3\n  trial.train.steps: 4", "{twin}:4: set.trial.train.steps: is given twice"),
    "a part of what is required": ("  trial.train: {steps: 3}", AT + "trial.train.batch_size: this field is required"),
}


@pytest.mark.parametrize("changes", BAD_CHANGES)
def test_a_mistake_in_a_change_is_where_it_was_written(changes: str, tmp_path: Path) -> None:
    write(tmp_path)
    text, message = BAD_CHANGES[changes]
    path = twin(tmp_path, f"{text}\n")
    assert refusal(path).startswith(message.format(twin=path))


def test_a_mistake_of_the_base_is_in_the_base(tmp_path: Path) -> None:
    base = write(tmp_path, edited("batch_size: 32", "batch_size: 0"))
    path = twin(tmp_path, "  trial.train.steps: 20\n")
    assert refusal(path).startswith(f"{base}:12: trial.train.batch_size: ")
    assert load_sweep(path, ["trial.train.batch_size=8"]).trials[0].spec.train.batch_size == 8
    twin(tmp_path, "  trial.train.batch_size: 8\n")
    assert load_sweep(path).trials[0].spec.train.batch_size == 8
    base.write_text("name: [\n")
    assert refusal(path).startswith(f"{base}:2: not valid YAML: ")


def test_what_an_extending_file_may_hold(tmp_path: Path) -> None:
    write(tmp_path)
    path = twin(tmp_path, "  trial.train.steps: 20\npool: {replicas: 2}\n")
    instead = "fields are changed by `set: {pool: ...}`"
    assert refusal(path) == f"{path}:4: pool: in a file that extends another, {instead}"
    path.write_text("extends: study.yaml\nname: A B\n")
    assert refusal(path).startswith(f"{path}:2: name: 'A B' cannot be a name")
    path.write_text("extends: study.yaml\n")
    assert same(load_sweep(path), load_sweep(tmp_path / "study.yaml"))
    alone = write(tmp_path, f"{SPEC}\nset: {{}}\n")
    assert refusal(alone).startswith(f"{alone}:40: set: changes the spec file that `extends` names, and none is named")


def test_what_cannot_be_extended(tmp_path: Path) -> None:
    path = twin(tmp_path, "  trial.train.steps: 20\n")
    assert refusal(path) == f"{path}:1: extends: no such spec file: {tmp_path}/study.yaml"
    for value in ("3", "[a.yaml]", "''", "null"):
        twin(tmp_path, "  trial.train.steps: 20\n", extends=value)
        assert refusal(path).startswith(f"{path}:1: extends: should be the path of a spec file, found ")
    twin(tmp_path, "  trial.train.steps: 20\n", extends="twin.yaml")
    assert refusal(path) == f"{path}:1: extends: the file extends itself: {path} extends {path}"
    twin(tmp_path, "  trial.train.steps: 20\n", extends="./other.yaml")
    other = twin(tmp_path, "  trial.train.steps: 20\n", "other.yaml", "twin.yaml")
    assert refusal(path) == f"{other}:1: extends: the file extends itself: {path} extends {other} extends {path}"


def test_axes_may_cover_what_an_extended_file_has_set(tmp_path: Path) -> None:
    write(tmp_path)
    twin(tmp_path, "  trial.train.batch_size: 8\n")
    last = twin(tmp_path, "  axes.train.batch_size: [4, 16]\n", "last.yaml", "twin.yaml")
    assert {trial.spec.train.batch_size for trial in load_sweep(last).trials} == {4, 16}
    swept = load_sweep(tmp_path / "twin.yaml", ["axes.train.batch_size=[2, 4]"])
    assert {trial.spec.train.batch_size for trial in swept.trials} == {2, 4}
    assert "has no effect" in refusal(last, "trial.train.batch_size=2")
