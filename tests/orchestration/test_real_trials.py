"""Real trials that are killed, that share a reference, that fail: what is taken up, and what is told of it.

Only the evaluation engine is not real. Whole sweeps with every service are in tests/end_to_end.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dft_sweeps.training.order import batch_indices
from tests.end_to_end.disturbing import DRAWS, dice
from tests.orchestration.real_trials import Disturbance, Swept, kill_a, saved_step, sweep

pytestmark = pytest.mark.ray
STEPS = 12
IW_SFT = ("trial.train.objective={kind: iw_sft}", "axes={train.learning_rate: [3e-4, 1e-3]}")


@pytest.fixture(scope="module")
def whole(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """The sweep of one trial, undisturbed."""
    return sweep(tmp_path_factory.mktemp("whole") / "storage")


def killed(
    storage: Path, *overrides: str, after: int = 5, do: Callable[[], object] = lambda: kill_a("RayTrainWorker")
) -> Swept:
    """A sweep whose worker was killed once the state of step `after` was there, and that ended with that."""
    disturbance = Disturbance(lambda storage: saved_step(storage) >= after, do)
    swept = sweep(storage, *overrides, "execution.max_failures=0", disturbance=disturbance)
    assert disturbance.done.is_set()
    return swept


@pytest.fixture(scope="module")
def once_killed(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    return killed(tmp_path_factory.mktemp("killed") / "storage")


@pytest.fixture(scope="module")
def kept(once_killed: Swept, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(once_killed.storage, tmp_path_factory.mktemp("kept") / "storage"))


@pytest.fixture
def storage(once_killed: Swept, kept: Path, tmp_path: Path) -> Path:
    """The storage of the sweep that was killed, as it was then, where its files say that they are. By a path of the
    test's own, for by another's MLflow has the database open that was there before."""
    shutil.rmtree(once_killed.storage)
    shutil.copytree(kept, once_killed.storage)
    (tmp_path / "storage").symlink_to(once_killed.storage)
    return tmp_path / "storage"


def test_a_run_holds_every_row_and_the_histograms_of_the_evaluated_steps(whole: Swept) -> None:
    assert whole.outcome.finished == 1
    curves = whole.curves()
    assert [step for step, _ in curves["train/nll"]] == list(range(1, STEPS + 1))
    bins = [curves[f"probability/bin_{index:02d}"] for index in range(3)]
    for rows in zip(*bins, strict=True):
        assert sum(share for _, share in rows) == pytest.approx(1)
    assert [step for step, _ in bins[0]] == [step for step, _ in curves["eval/arithmetic_1/accuracy"]] == [0, 4, 8, 12]
    assert bins[2][3][1] > bins[2][0][1]  # it has learned
    assert not whole.files().resume_directory.exists()
    assert whole.trials[0].resumed_at is None


def test_a_run_tells_under_what_conditions_it_was_trained(whole: Swept) -> None:
    run = whole.reader._client.get_run(whole.trials[0].run_id)
    tags = run.data.tags
    assert (tags["dft.workers"], tags["dft.threads"], tags["dft.micro_batch_tokens"]) == ("1", "1", "256")
    assert tags["dft.attention"] and tags["dft.device"]
    assert all(name in tags["dft.versions"] for name in ("torch ", "transformers ", "peft "))


@pytest.mark.slow
def test_a_trial_whose_workers_are_warm_starts_in_a_moment_and_is_as_if_alone(whole: Swept, tmp_path: Path) -> None:
    swept = sweep(tmp_path / "storage", "axes={train.objective.kind: [sft, dft]}")
    assert swept.outcome.finished == 2
    assert len({trial.params["train.objective.kind"] for trial in swept.trials}) == 2
    assert swept.curves(1) == whole.curves()
    [cold, warm] = [
        float(found[1]) for line in swept.lines if (found := re.search(r"first step (\d+) s after the trial's", line))
    ]
    print(f"from a trial's start to its first step: {cold:.0f} s, and {warm:.0f} s with warm workers")
    assert len(list((swept.storage / "ray" / "train").iterdir())) == 1


@pytest.mark.slow
def test_a_killed_trial_goes_on_where_it_was_and_its_curves_are_those_of_the_whole_one(
    whole: Swept, once_killed: Swept, storage: Path
) -> None:
    first = once_killed
    assert list(first.outcome.failed) == ["trial"]
    assert "FAILED: " in first.lines[-1]
    reached = max(row.step for row in first.files().rows())
    assert 5 <= saved_step(storage) <= reached < STEPS

    again = sweep(storage)
    step = again.trials[0].resumed_at
    assert step is not None and step >= 5
    assert f"train: trial: resumed at step {step} of {STEPS}" in again.lines
    assert again.trials[0].mixed_provenance is None
    assert again.curves() == whole.curves()
    # What was evaluated before is in the store; the engine gets no weights twice.
    assert len(again.swaps) + len(first.swaps) == 4
    assert not again.files().resume_directory.exists()


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("process", ["RayTrainWorker", "TrainController", "ImplicitFunc"])
def test_a_trial_one_of_whose_processes_is_killed_is_taken_up_at_once(
    whole: Swept, tmp_path: Path, process: str, draw: int
) -> None:
    step = dice(f"{process} killed", draw).randint(1, STEPS // 2)  # in the last steps, an orphan may finish first
    disturbance = Disturbance(lambda storage: saved_step(storage) >= step, lambda: kill_a(process))
    swept = sweep(tmp_path / "storage", disturbance=disturbance)
    assert disturbance.done.is_set()
    assert (swept.outcome.finished, swept.outcome.failed) == (1, {})
    assert "train: trial: interrupted: " in swept.text
    assert (resumed := swept.trials[0].resumed_at) is not None and resumed >= step
    assert swept.trials[0].mixed_provenance is None
    assert swept.curves() == whole.curves()
    print(f"step {step}: goes on after {disturbance.recovered_s(swept, 'resumed at step'):.1f} s")


@pytest.mark.slow
def test_a_trial_taken_up_under_other_conditions_is_marked(storage: Path) -> None:
    again = sweep(storage, "execution.micro_batch_tokens=512")
    [trial] = again.trials
    assert trial.mixed_provenance == f"from step {trial.resumed_at}: micro_batch_tokens 256 -> 512"


@pytest.mark.slow
def test_trials_of_one_model_and_data_share_the_reference(tmp_path: Path, cluster: None) -> None:
    swept = sweep(tmp_path / "storage", *IW_SFT, concurrent=2)
    assert swept.outcome.finished == 2
    said = [line for line in swept.lines if "reference log-probabilities of 64 samples" in line]
    assert sorted("computed" in line for line in said) == [False, True]
    assert len(list((swept.storage / "reference").glob("*.npz"))) == 1
    # The first step's weights exp(log p - log p of the reference) are all 1: iw-SFT begins as SFT.
    [row, *_] = [row for row in swept.files().rows() if row.step == 1]
    assert row.metrics["train/objective"] == pytest.approx(row.metrics["train/nll"], rel=1e-6)


@pytest.mark.slow
def test_a_batch_that_is_not_finite_fails_its_trial_and_is_named(tmp_path: Path, cluster: None) -> None:
    rows = [{"prompt": f"{n}+1=", "completion": f"{n + 1}"} for n in range(40)]
    rows[17]["completion"] = "Q"  # no other sample has this token
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _poisoned_model(tmp_path / "policy", "Q")
    source = f"trial.data.source={{kind: file, path: {tmp_path / 'rows.jsonl'}}}"
    swept = sweep(tmp_path / "storage", source, f"trial.model.path={tmp_path / 'policy'}")
    settings = swept.prepared.trials[0].trial.spec.train
    step = next(step for step in range(1, STEPS) if 17 in batch_indices(step, settings, 40))
    reason = swept.outcome.failed["trial"]
    file = swept.files().non_finite
    assert reason == f"step {step}: loss or gradient is not finite; {file} names the batch"
    record = json.loads(file.read_text())
    assert (record["step"], 17 in record["samples"]) == (step, True)
    [trial] = swept.trials
    assert (trial.status, trial.diverged_at) == ("FAILED", step)
    assert json.loads(swept.reader._artifact(trial.run_id, "non_finite.json")) == record
    assert [step for step, _ in swept.curves()["train/nll"]] == list(range(1, step))


def _poisoned_model(directory: Path, text: str) -> None:
    """The embedded base policy, whose embedding of one token is not a number."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dft_sweeps.training.model_files import EMBEDDED

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    [token] = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = float("nan")
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


@pytest.mark.slow
def test_two_workers_that_were_killed_go_on_where_they_were(tmp_path: Path, cluster: None) -> None:
    """FSDP2, with packing and several micro-batches a step."""
    whole = sweep(tmp_path / "whole", "execution.workers=2")
    first = killed(tmp_path / "killed", "execution.workers=2")
    assert list(first.outcome.failed) == ["trial"]
    alone = sweep(tmp_path / "killed", "execution.workers=2")
    step = alone.trials[0].resumed_at
    assert step is not None and step >= 5
    assert alone.curves() == whole.curves()
