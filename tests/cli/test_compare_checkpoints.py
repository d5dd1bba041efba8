"""`compare` on checkpoints: verdicts that the real store holds, found by the weights."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

from dft_sweeps.cli import compare
from dft_sweeps.evaluation.grading import Verdict
from dft_sweeps.evaluation.paired import compare as compare_rows
from dft_sweeps.evaluation.results import BenchmarkResult, EvaluationKey, GradedQuestion, GradedSample
from dft_sweeps.evaluation.store import EvaluationStore
from dft_sweeps.report.stored_results import stored_results
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import SamplingSpec
from dft_sweeps.tracking.question_results import to_json
from dft_sweeps.tracking.writer import Tracker
from dft_sweeps.training.model_files import weights_digest

SIZES = {"amc23": 40, "math500": 90}
SAMPLED, GREEDY = SamplingSpec(samples=4), SamplingSpec(temperature=0.0)
SKILL = {"one": 0.4, "two": 0.6}


def result(
    digest: str, skill: float, benchmark: str, sampling: SamplingSpec, grader: str = "strict/1", template: str = "t"
) -> BenchmarkResult:
    noise = random.Random(f"{digest}{benchmark}{sampling}{grader}{template}")
    questions = tuple(
        GradedQuestion(
            str(index),
            "1",
            tuple(
                GradedSample(Verdict(noise.random() < skill, "1", ""), "stop", 5) for _ in range(sampling.samples)
            ),
        )
        for index in range(SIZES[benchmark])
    )  # fmt: skip
    return BenchmarkResult(
        EvaluationKey(digest, benchmark, f"d-{benchmark}", template, sampling), grader, False, questions
    )


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Two checkpoints evaluated on two benchmarks under two samplings by two graders, and a third that was not."""
    store = EvaluationStore(tmp_path / "storage")
    for index, name in enumerate((*SKILL, "three")):
        (tmp_path / name).mkdir()
        save_file({"weight": np.full(3, index, dtype=np.float32)}, tmp_path / name / "model.safetensors")
        for benchmark in SIZES if name in SKILL else ():
            for sampling in (SAMPLED, GREEDY):
                for grader in ("strict/1", "paper/1"):
                    store.save(result(digest(tmp_path, name), SKILL[name], benchmark, sampling, grader))
    return tmp_path / "storage"


def digest(folder: Path, name: str) -> str:
    return weights_digest(folder / name)


def call(storage: Path, *arguments: str) -> Result:
    paths = [str(storage.parent / each) if (storage.parent / each).is_dir() else each for each in arguments]
    return CliRunner().invoke(compare.command, [*paths, "--storage", str(storage)])


def differences(storage: Path, *arguments: str) -> list[dict[str, Any]]:
    found = call(storage, *arguments, "--json")
    assert found.exit_code == 0, found.exception
    return json.loads(found.stdout)["differences"]  # type: ignore[no-any-return]


def refusal(storage: Path, *arguments: str) -> str:
    found = call(storage, *arguments)
    assert isinstance(found.exception, SpecError), found.exception
    return str(found.exception)


def test_two_checkpoints_are_compared_from_storage_alone(storage: Path) -> None:
    found = differences(storage, "two", "one", "--sampling", "4 samples")
    assert [each["benchmark"] for each in found] == ["amc23", "math500", "average"]
    a, b = (result(digest(storage.parent, name), SKILL[name], "amc23", SAMPLED).correct for name in ("two", "one"))
    expected = compare_rows(a, b)
    assert (found[0]["difference"], found[0]["p_value"]) == pytest.approx((expected.difference, expected.p_value))
    assert (found[0]["sampling"], found[0]["step_a"], found[0]["questions"]) == (
        "4 samples at temperature 1",
        None,
        40,
    )
    paper = differences(storage, "two", "one", "--sampling", "1 sample at", "--grader", "paper")[0]
    assert (paper["grader"], paper["sampling"]) == ("paper/1", "1 sample at temperature 0")
    assert "minus" in call(storage, "two", "one", "--sampling", "4 samples").stdout


def test_several_samplings_in_common_are_listed_and_one_is_taken(storage: Path) -> None:
    message = refusal(storage, "two", "one")
    assert message.startswith("--sampling: several samplings that both sides have")
    assert "'1 sample at temperature 0', '4 samples at temperature 1'" in message
    only = SamplingSpec(samples=8, temperature=0.6)
    EvaluationStore(storage).save(result(digest(storage.parent, "three"), 0.5, "amc23", only))
    assert "no sampling that both sides have" in refusal(storage, "three", "one")
    EvaluationStore(storage).save(result(digest(storage.parent, "one"), 0.4, "amc23", only))
    [found] = differences(storage, "three", "one")
    assert found["sampling"] == "8 samples at temperature 0.6"
    assert "no sampling 'x'" in refusal(storage, "two", "one", "--sampling", "x")


def test_other_numbers_of_samples_can_be_compared_where_none_are_equal(storage: Path) -> None:
    few = SamplingSpec(samples=2)
    EvaluationStore(storage).save(result(digest(storage.parent, "three"), 0.5, "amc23", few))
    [found] = differences(storage, "three", "one")
    assert found["sampling"] == "2 samples at temperature 1 and 4 samples at temperature 1"
    assert found["p_test"] == "interval over questions"
    text = " ".join(call(storage, "three", "one").stdout.split())
    assert f"{found['p_value']:.4f}*" in text
    assert "p*: A and B have different numbers of samples of a question" in text
    assert "sign-flip test over questions." not in text
    assert "--correction: max-t flips" in refusal(storage, "three", "one", "--correction", "max-t")


def test_nothing_stored_names_the_command_to_run(storage: Path) -> None:
    message = refusal(storage, "three", "one")
    assert message.startswith(f"nothing is stored in {storage} of {storage.parent / 'three'} (weights ")
    assert f"dft-sweeps evaluate {storage.parent / 'three'} --benchmarks NAME,... --storage {storage}" in message


def test_a_hub_id_is_looked_up_in_the_cache_of_this_machine_alone(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refusal(storage, "nobody/has-this-model", "one")
    assert "dft-sweeps evaluate nobody/has-this-model --benchmarks NAME,..." in message
    snapshot = storage.parent / "hub" / "models--some--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes((storage.parent / "two" / "model.safetensors").read_bytes())
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(storage.parent / "hub"))
    by_id = differences(storage, "some/model", "one", "--sampling", "4 samples")
    by_path = differences(storage, "two", "one", "--sampling", "4 samples")
    assert [each["p_value"] for each in by_id] == [each["p_value"] for each in by_path]
    assert by_id[0]["a"] == "some/model"


def test_a_damaged_grading_is_refused_with_its_path(storage: Path) -> None:
    [path, *_] = sorted((storage / "grades").glob("g-*/verdicts.parquet"))
    path.write_bytes(path.read_bytes()[:-1])
    messages = [refusal(storage, name, "three") for name in SKILL]
    assert any(str(path) in message for message in messages)


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"identity": 3}', '{"identity": {"weights_digest": "x"}}'])
def test_damage_of_no_known_checkpoint_is_said_and_hinders_no_other(storage: Path, damage: str) -> None:
    before = differences(storage, "two", "one", "--sampling", "4 samples")
    foreign = storage / "grades" / "g-foreign"
    foreign.mkdir()
    (foreign / "result.json").write_text(damage)
    found = call(storage, "two", "one", "--sampling", "4 samples", "--json")
    assert found.exit_code == 0, found.exception
    document = json.loads(found.stdout)
    assert document["differences"] == before
    if '"x"' in damage:  # of known weights, which nobody asked for
        assert document["notes"] == []
        return
    [note] = document["notes"]
    assert note.startswith(f"{foreign / 'result.json'} is damaged and left out; whose weights it is of cannot be read")
    assert f"Note: {foreign}" in call(storage, "two", "one", "--sampling", "4 samples").stdout
    assert f"{foreign / 'result.json'} is damaged" in refusal(storage, "three", "one")


def test_a_description_of_these_weights_that_lacks_something_is_refused(storage: Path) -> None:
    [path, *_] = sorted((storage / "grades").glob("g-*/result.json"))
    about = json.loads(path.read_text())
    del about["identity"]["grader"]
    path.write_text(json.dumps(about))
    messages = [refusal(storage, name, "three") for name in SKILL]
    assert any(f"{path}: not a whole description (its identity lacks grader)" in message for message in messages)


def test_two_templates_are_two_samplings(storage: Path) -> None:
    EvaluationStore(storage).save(result(digest(storage.parent, "three"), 0.5, "amc23", SAMPLED, template="a" * 9))
    EvaluationStore(storage).save(result(digest(storage.parent, "three"), 0.5, "amc23", SAMPLED, template="b" * 9))
    found = {each.sampling for each in stored_results(storage, digest(storage.parent, "three"), pytest.fail)}
    assert found == {f"4 samples at temperature 1, template {8 * letter}" for letter in "ab"}


def test_benchmarks_cut_off_at_different_contexts_stay_one_sampling_and_repetitions_are_told_apart(
    storage: Path,
) -> None:
    store, weights = EvaluationStore(storage), digest(storage.parent, "three")
    short = SAMPLED.model_copy(update={"context": 512})
    store.save(result(weights, 0.5, "amc23", SAMPLED))
    store.save(result(weights, 0.5, "math500", short))
    assert {each.sampling for each in stored_results(storage, weights, pytest.fail)} == {"4 samples at temperature 1"}
    assert len(differences(storage, "three", "one")) == 3
    store.save(result(weights, 0.5, "amc23", short))
    found = [(each.benchmark, each.sampling) for each in stored_results(storage, weights, pytest.fail)]
    assert ("amc23", "4 samples at temperature 1, context 512") in found and len(found) == 3


def test_a_trial_against_a_checkpoint(storage: Path) -> None:
    tracker = Tracker(f"sqlite:///{storage}/mlflow.db", str(storage / "artifacts"))
    parent = tracker.open_sweep("study", "s-1", "name: x", [{"training_id": "t-1", "name": "dft", "axes": {}}], "m")
    run = tracker.open_trial(parent, "t-1", "dft", {}, {})
    judged = [{"strict": result("of the trial", 0.7, name, SAMPLED)} for name in SIZES]
    text = to_json({"sampled": judged, "cold": [{"strict": result("cold", 0.7, "amc23", GREEDY)}]})
    tracker.log_text(run, text, "evaluations/step-00000040.json")
    found = differences(storage, "dft", "one", "--sampling", "sampled")[0]
    expected = compare_rows(
        judged[0]["strict"].correct, result(digest(storage.parent, "one"), 0.4, "amc23", SAMPLED).correct
    )
    assert found["difference"] == pytest.approx(expected.difference)
    assert (found["sampling"], found["step_a"]) == ("sampled and 4 samples at temperature 1", 40)
    assert "'sampled', 'cold'" in refusal(storage, "dft", "one")
    text = " ".join(call(storage, "dft", "one", "--sampling", "cold").stdout.split())
    assert "at step 40, cold and 1 sample at temperature 0" in text
