"""One command runs a sweep on the real engines, and everything it reports can be found again by other means."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import torch

from dft_sweeps.data.encode import encode
from dft_sweeps.data.sources import load_demonstrations
from dft_sweeps.evaluation.benchmarks import load_benchmark
from dft_sweeps.orchestration.prepare import prepare
from dft_sweeps.orchestration.trial_files import TrialFiles
from dft_sweeps.spec.load import load_sweep
from dft_sweeps.tracking.names import TRAIN_METRICS
from dft_sweeps.tracking.reader import Reader, TrialRow
from dft_sweeps.training.loop import StepDone, train
from dft_sweeps.training.model_files import EMBEDDED, weights_digest
from dft_sweeps.training.policy import load_policy
from dft_sweeps.training.sharding import Ranks
from dft_sweeps.training.state import TrainState
from tests.end_to_end.conftest import FinishedSweep
from tests.end_to_end.running import SPEC, run

pytestmark = pytest.mark.ray
STEPS = (0, 3, 6)


@pytest.fixture(scope="module")
def trials(finished_sweep: FinishedSweep) -> list[TrialRow]:
    reader = Reader(finished_sweep.tracking_uri)
    return reader.trials(reader.find_sweep("end-to-end"))


def completions(storage: Path, weights: str, benchmark: str, temperature: float) -> list[dict]:
    """Stored completions of one checkpoint, found by what is written beside them and not by their ids."""
    found = []
    for about in (storage / "evaluations").glob("*/evaluation.json"):
        identity = json.loads(about.read_text())["identity"]
        key = (identity["weights_digest"], identity["benchmark"], identity["sampling"].get("temperature", 1.0))
        if key == (weights, benchmark, temperature):
            found.append(parquet.read_table(about.with_name("completions.parquet")).to_pylist())
    [rows] = found
    assert {row["weights_digest"] for row in rows} == {weights}
    return rows


def checkpoint_directories(storage: Path, trial: TrialRow) -> dict[int, Path]:
    files = TrialFiles(storage, trial.training_id)
    return {checkpoint.step: Path(checkpoint.directory) for checkpoint in files.checkpoints()}


def test_the_command_says_what_it_does_and_leaves_no_process(finished_sweep: FinishedSweep) -> None:
    text = finished_sweep.outcome.text
    for part in ("Ray is up", "1 of 1 ready", "step 6/6", "tokens/s", "Browse the curves"):
        assert part in text
    assert re.search(r"evaluate .*dft: step 3 +sampled [\d.]+% \[[\d.]+%, [\d.]+%\], greedy", text)
    pictures = [Path(line) for line in finished_sweep.outcome.lines if line.endswith(".png")]
    assert {picture.name for picture in pictures} >= {"accuracy_sampled.png", "training.png", "probabilities.png"}
    assert all(picture.stat().st_size > 10_000 for picture in pictures)
    assert finished_sweep.outcome.left == []


def test_mlflow_holds_every_point_of_every_curve(finished_sweep: FinishedSweep, trials: list[TrialRow]) -> None:
    reader = Reader(finished_sweep.tracking_uri)
    assert reader.find_sweep("end-to-end").status == "FINISHED"
    assert [(trial.name, trial.status) for trial in trials] == [
        ("objective=sft", "FINISHED"),
        ("objective=dft", "FINISHED"),
    ]
    for trial in trials:
        assert trial.params["train.learning_rate"] == "0.0003"
        for name in set(TRAIN_METRICS) - {"reference_kl"}:
            assert [step for step, _ in reader.curve(trial.run_id, f"train/{name}")] == [1, 2, 3, 4, 5, 6], name
        for prefix in ("eval", "eval_greedy"):
            for benchmark in ("arithmetic_1", "arithmetic_2", "average"):
                several = ("pass_at_3", "majority_at_3") if prefix == "eval" else ()
                for name in ("accuracy", "ci_low", "ci_high", "fixed_low", "fixed_high", *several):
                    points = reader.curve(trial.run_id, f"{prefix}/{benchmark}/{name}")
                    assert tuple(step for step, _ in points) == STEPS
        bins = [reader.curve(trial.run_id, f"probability/bin_{index:02d}") for index in range(13)]
        assert all(tuple(step for step, _ in points) == STEPS for points in bins)
        assert [sum(share for _, share in row) for row in zip(*bins, strict=True)] == pytest.approx([1.0] * len(STEPS))


def test_training_curves_equal_a_run_of_the_loop_alone_bit_for_bit(
    finished_sweep: FinishedSweep, trials: list[TrialRow]
) -> None:
    reader = Reader(finished_sweep.tracking_uri)
    prepared = prepare(load_sweep(SPEC))
    execution = prepared.sweep.spec.execution
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for trial, planned in zip(trials, prepared.trials, strict=True):
        spec = planned.trial.spec
        data = encode(load_demonstrations(spec.data.source, SPEC.parent).rows, spec.data, prepared.prompts)
        state = TrainState(load_policy(EMBEDDED, spec.model, spec.train, execution), spec.train)
        events = train(state, data, frozenset(), execution, Ranks())
        alone = {event.step: event.metrics for event in events if isinstance(event, StepDone)}
        for name in ("train/objective", "train/nll", "train/grad_norm", "train/entropy"):
            assert reader.curve(trial.run_id, name) == [(step, metrics[name]) for step, metrics in alone.items()]
    torch.set_num_threads(threads)


def test_accuracy_follows_from_the_stored_completions(finished_sweep: FinishedSweep, trials: list[TrialRow]) -> None:
    reader = Reader(finished_sweep.tracking_uri)
    benchmarks = {spec.name: spec for spec in load_sweep(SPEC).trials[0].spec.evaluation.benchmarks}
    for trial in trials:
        for step, directory in checkpoint_directories(finished_sweep.storage, trial).items():
            for prefix, temperature, samples in (("eval", 1.0, 3), ("eval_greedy", 0.0, 1)):
                for name, spec in benchmarks.items():
                    questions = load_benchmark(spec, SPEC.parent).questions
                    answers = {question.id: question.answer for question in questions}
                    rows = completions(finished_sweep.storage, weights_digest(directory), name, temperature)
                    assert len(rows) == len(answers) * samples
                    right = [
                        re.findall(r"\\boxed\{(\d+)\}", row["text"])[-1:] == [answers[row["question_id"]]]
                        for row in rows
                    ]
                    logged = dict(reader.curve(trial.run_id, f"{prefix}/{name}/accuracy"))
                    assert logged[step] == pytest.approx(sum(right) / len(right), abs=1e-12)


def test_the_engine_and_transformers_agree_on_greedy_tokens(
    finished_sweep: FinishedSweep, trials: list[TrialRow]
) -> None:
    """Weights swapped into the engine are those of the step, for every point of every curve."""
    from transformers import AutoModelForCausalLM

    prepared = prepare(load_sweep(SPEC))
    end = prepared.prompts.tokenizer.eos_token_id

    for trial in trials:
        directories = checkpoint_directories(finished_sweep.storage, trial)
        assert tuple(directories) == STEPS
        for directory in directories.values():
            model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
            for benchmark in prepared.benchmarks.values():
                rows = completions(finished_sweep.storage, weights_digest(directory), benchmark.name, 0.0)
                for question, row in zip(benchmark.questions, rows, strict=True):
                    prompt = torch.tensor([prepared.prompts.ids(question.prompt_text)])
                    output = model.generate(
                        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=96, do_sample=False,
                        eos_token_id=end, pad_token_id=end,
                    )  # fmt: skip
                    assert output[0, prompt.shape[1] :].tolist() == list(row["token_ids"])


def test_the_base_model_is_evaluated_once_for_all_trials(finished_sweep: FinishedSweep, trials: list[TrialRow]) -> None:
    checkpoints = 1 + len(trials) * (len(STEPS) - 1)
    stored = list((finished_sweep.storage / "evaluations").iterdir())
    assert len(stored) == checkpoints * 2 * 2  # benchmarks x samplings
    reader = Reader(finished_sweep.tracking_uri)
    first, second = (reader.curve(trial.run_id, "eval/average/accuracy")[0] for trial in trials)
    assert first == second


def test_running_again_starts_nothing_and_reports_the_same(finished_sweep: FinishedSweep) -> None:
    before = sorted(path.stat().st_mtime_ns for path in (finished_sweep.storage / "trials").rglob("*.json*"))
    again = run("run", str(SPEC), "--storage", str(finished_sweep.storage))
    assert again.code == 0
    assert "2 of 2 trials are finished already" in again.text
    assert "starting Ray" not in again.text
    assert before == sorted(path.stat().st_mtime_ns for path in (finished_sweep.storage / "trials").rglob("*.json*"))
    assert [line for line in again.lines if "│" in line] == [
        line for line in finished_sweep.outcome.lines if "│" in line
    ]


def test_trials_are_compared_by_what_was_stored_of_each_question(
    finished_sweep: FinishedSweep, trials: list[TrialRow]
) -> None:
    outcome = run("compare", "objective=dft", "objective=sft", "--sweep", "end-to-end",
                  "--storage", str(finished_sweep.storage), "--json")  # fmt: skip
    assert outcome.code == 0, outcome.text
    found = {each["benchmark"]: each for each in json.loads(outcome.text)["differences"]}
    assert list(found) == ["arithmetic_1", "arithmetic_2", "average"]
    reader = Reader(finished_sweep.tracking_uri)
    for name, each in found.items():
        sft, dft = (dict(reader.curve(trial.run_id, f"eval/{name}/accuracy"))[STEPS[-1]] for trial in trials)
        assert each["difference"] == pytest.approx(dft - sft, abs=1e-12)
        assert each["ci_low"] <= each["difference"] <= each["ci_high"]
    for trial in trials:
        assert tuple(reader.evaluated_steps(trial.run_id)) == STEPS
        [table, *_] = reader.question_results(trial.run_id, STEPS[-1])
        verdicts = finished_sweep.storage / "grades" / table.grade_id / "verdicts.parquet"
        rows = parquet.read_table(verdicts).to_pylist()
        assert sum(table.right) == sum(row["correct"] is True for row in rows)


@pytest.mark.slow
def test_a_benchmark_added_later_does_not_train_again(finished_sweep: FinishedSweep, tmp_path: Path) -> None:
    """Only the new benchmark's completions are generated, from the checkpoints that are there."""
    wider = tmp_path / "wider.yaml"
    text = SPEC.read_text().replace("name: end-to-end", "name: wider")
    wider.write_text(text.replace("    every: 3", "      - {name: arithmetic_3, limit: 4}\n    every: 3"))
    before = len(list((finished_sweep.storage / "evaluations").iterdir()))
    outcome = run("run", str(wider), "--storage", str(finished_sweep.storage))
    assert outcome.code == 0, outcome.text
    assert "step 1/6" not in outcome.text
    assert "started" not in outcome.text
    assert len(list((finished_sweep.storage / "evaluations").iterdir())) == before + 5 * 2
    reader = Reader(finished_sweep.tracking_uri)
    for trial in reader.trials(reader.find_sweep("wider")):
        assert len(reader.curve(trial.run_id, "train/nll")) == 6
        assert len(reader.curve(trial.run_id, "eval/arithmetic_3/accuracy")) == 3
