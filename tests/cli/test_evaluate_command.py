"""`dft-sweeps evaluate`: one real run on three checkpoints, what repeating it costs, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from dft_sweeps.cli.main import main
from dft_sweeps.evaluation.benchmarks import load_benchmark
from dft_sweeps.evaluation.evaluate import evaluation_key
from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.evaluation.grading import GraderPool
from dft_sweeps.evaluation.store import EvaluationStore
from dft_sweeps.orchestration.prepare import prepare
from dft_sweeps.orchestration.standalone import measure, read_candidate
from dft_sweeps.spec.load import load_sweep
from dft_sweeps.spec.models import BenchmarkSpec, EvaluationSpec, SamplingSpec
from dft_sweeps.training.model_files import EMBEDDED
from tests.end_to_end.running import Finished, run
from tests.orchestration.scripted_pool import ScriptedPool

Call = Callable[..., tuple[int, str, str]]
ASKED = ("--benchmarks", "arithmetic_1", "--limit", "20", "--samples", "2", "--max-new-tokens", "96")
SWEEP = """\
name: asks-the-same
trial:
  data: {source: {kind: arithmetic, samples: 64}, max_length: 160}
  train: {objective: {kind: dft}, learning_rate: 3e-4, batch_size: 8, steps: 2}
  evaluation:
    benchmarks: [{name: arithmetic_1, limit: 20}]
    samplings: {first: {samples: 2, max_new_tokens: 96}, second: {temperature: 0, max_new_tokens: 96}}
pool: {max_model_len: 256}
"""


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Calls the command in an empty current directory, where no engine may be started; gives exit code, stdout and
    stderr."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("DFT_SWEEPS_STORAGE", raising=False)
    monkeypatch.setattr("dft_sweeps.orchestration.cluster.set_environment", lambda address: pytest.fail("starts Ray"))

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dft-sweeps", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def other_weights(directory: Path) -> Path:
    """The embedded model with an output matrix so flat that it hardly ever answers right."""
    shutil.copytree(EMBEDDED, directory)
    weights = load_file(EMBEDDED / "model.safetensors")
    weights["lm_head.weight"] *= 0.2
    save_file(weights, directory / "model.safetensors")
    return directory


def other_shape(directory: Path) -> Path:
    """A model that the embedded one's engines cannot hold."""
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(EMBEDDED, intermediate_size=208)).save_pretrained(
        directory
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED / name, directory / name)
    return directory


@dataclass(frozen=True)
class Evaluated:
    storage: Path
    flat: Path
    wide: Path
    outcome: Finished
    found: dict[str, Any]
    """What it printed as JSON."""


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """Two checkpoints on one engine, by swapping, and a third one that does not fit."""
    directory = tmp_path_factory.mktemp("evaluate")
    storage, flat, wide = directory / "storage", other_weights(directory / "flat"), other_shape(directory / "wide")
    outcome = run("evaluate", "embedded", str(flat), str(wide), *ASKED, "--json", "--storage", str(storage))
    _, brace, rest = outcome.text.partition("\n{\n")
    assert brace, outcome.text
    return Evaluated(storage, flat, wide, outcome, json.JSONDecoder().raw_decode("{" + rest)[0])


@pytest.mark.ray
def test_checkpoints_of_one_architecture_are_evaluated_on_one_engine(evaluated: Evaluated) -> None:
    assert (evaluated.outcome.code, evaluated.outcome.left) == (1, [])
    base, flat, wide = evaluated.found["checkpoints"]
    assert [each["checkpoint"] for each in (base, flat, wide)] == ["embedded", str(evaluated.flat), str(evaluated.wide)]
    accuracies = {row["sampling"]: row["accuracy"] for row in base["results"]}
    assert 0.3 < accuracies["sampled"] < 0.8
    assert accuracies["greedy"] > 0.9
    assert [row["accuracy"] for row in flat["results"] if row["sampling"] == "sampled"] < [0.2]
    assert (base["error"], flat["error"]) == (None, None)
    assert base["swap_seconds"] < base["seconds"]
    text = evaluated.outcome.text
    assert text.count("evaluation engines: 1 of 1 ready") == 1
    assert "2 checkpoints, 20 questions: up to 120 completions to generate" in text
    assert "embedded: 60 completions graded" in text
    assert "Traceback" not in text


@pytest.mark.ray
def test_a_checkpoint_of_another_architecture_is_refused_and_named(evaluated: Evaluated) -> None:
    wide = evaluated.found["checkpoints"][2]
    assert wide["results"] == wide["averages"] == []
    assert wide["error"].startswith(
        f"{evaluated.wide}: does not fit the running engine: "
        "config intermediate_size: engine has 416, checkpoint has 208; "
    )
    assert evaluated.outcome.lines[-1] == f"error: {evaluated.wide}: {wide['error']}"


@pytest.mark.ray
def test_every_number_follows_from_the_completions_on_storage(evaluated: Evaluated, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    prepared = prepare(load_sweep(tmp_path / "sweep.yaml"))
    [benchmark] = prepared.benchmarks.values()
    base, store = evaluated.found["checkpoints"][0], EvaluationStore(evaluated.storage)
    # A sweep that asks the same, under other names and of engines with another context, finds it.
    asked = prepared.samplings_at(prepared.trials[0], 0).values()
    for row, sampling in zip(base["results"], asked, strict=True):
        key = evaluation_key(prepared.model.weights_digest, benchmark, sampling, prepared.prompts)
        assert key.id == row["evaluation_id"]
        assert Path(row["completions"]) == evaluated.storage / "evaluations" / key.id
        shutil.rmtree(row["verdicts"])
        with GraderPool() as graders:
            result = store.load_or_regrade(key, benchmark, graders)["exact"]
        assert Path(row["verdicts"]).is_dir()
        right = [sum(samples) for samples in result.correct]
        assert row["accuracy"] == pytest.approx(sum(right) / (20 * row["samples"]))
        assert row["pass_at_k"] == pytest.approx(sum(map(bool, right)) / 20)
        assert row["tokens"] == sum(len(each.token_ids) for each in store.load_completions(key, benchmark).rows)
        for name, interval in (("new_questions", result.interval), ("fixed_list", result.fixed_interval)):
            assert (row[name]["low"], row[name]["high"]) == (interval.low, interval.high)


@pytest.mark.ray
def test_the_second_time_nothing_is_started_and_the_numbers_are_the_same(evaluated: Evaluated, call: Call) -> None:
    arguments = ("embedded", evaluated.flat, *ASKED, "--storage", evaluated.storage)
    code, out, err = call(*arguments, "--json")
    assert code == 0
    assert "2 of 2 checkpoints were evaluated before" in err
    for first, second in zip(evaluated.found["checkpoints"], json.loads(out)["checkpoints"], strict=False):
        assert (second["results"], second["averages"]) == (first["results"], first["averages"])
        assert second["seconds"] == 0
    code, out, err = call(*arguments)
    assert code == 0
    sampled = evaluated.found["checkpoints"][0]["results"][0]
    assert out.splitlines()[0].strip() == "embedded, sampled: 2 samples at temperature 1, top-p 1, up to 96 new tokens"
    shares = [f"{100 * sampled[name]:.1f}" for name in ("accuracy", "pass_at_k", "majority_at_k")]
    low, high = (f"{100 * sampled['fixed_list'][bound]:.1f}" for bound in ("low", "high"))
    [row] = [line.split() for line in out.splitlines() if f" {low}-{high} " in line][:1]
    assert [cell for cell in row if cell.replace(".", "").isdigit()] == shares
    assert f"evaluations/{sampled['evaluation_id']}" in out


def test_adaptive_sampling_says_what_it_saved_and_every_grader_has_its_rows(call: Call, tmp_path: Path) -> None:
    """The engine is a script whose answers are all wrong, so two of four samples are enough."""
    (tmp_path / "gsm8k.jsonl").write_text("\n".join(f'{{"question": "q", "answer": "#### {n}"}}' for n in range(8)))
    (tmp_path / "amc.jsonl").write_text("\n".join(f'{{"question": "q", "answer": {n}}}' for n in range(8)))
    asked = {"samples": 4, "max_new_tokens": 96, "adaptive": {"half_width": 25}}
    named = {"gsm8k": tmp_path / "gsm8k.jsonl", "amc23": tmp_path / "amc.jsonl"}
    evaluation = EvaluationSpec(
        benchmarks=tuple(BenchmarkSpec(name=name, path=str(path)) for name, path in named.items()),
        samplings={"sampled": SamplingSpec(**asked)},
    )
    benchmarks = {spec.name: load_benchmark(spec, tmp_path) for spec in evaluation.benchmarks}
    candidate = read_candidate("embedded", evaluation, benchmarks, None, tmp_path)
    pool = ScriptedPool()
    pool.gate.set()
    store = EvaluationStore(tmp_path / "storage")
    with GraderPool() as graders:
        measure({1: candidate}, {1: Canary(((1, 2),), ((-1.0,),))}, benchmarks, store, pool, graders, [].append)
    given = ",".join(f"{name}={path}" for name, path in named.items())
    arguments = (
        *("embedded", "--benchmarks", given, "--samples", 4, "--adaptive", 25, "--max-new-tokens", 96),
        *("--no-greedy", "--storage", store.root),
    )
    code, out, _ = call(*arguments, "--json")
    [found] = json.loads(out)["checkpoints"]
    assert code == 0
    graders_of = [(row["benchmark"], row["grader"].split("/")[0]) for row in found["results"]]
    assert graders_of == [(name, grader) for name in named for grader in ("strict", "paper")]
    assert [average["grader"] for average in found["averages"]] == ["own", "paper"]
    samples = found["results"][0]["samples"]
    assert 1 < samples < 4
    for row in found["results"]:
        # One token a sample; intervals that hold at every look reach no further than asked.
        assert (row["tokens"], row["tokens_saved"]) == (8 * row["samples"], 8 * (4 - row["samples"]))
        assert row["fixed_list"]["high"] - row["accuracy"] <= 0.25
    code, out, _ = call(*arguments)
    assert code == 0
    assert f"gsm8k: {samples} of 4 samples drawn for an interval of ±25 points; about {8 * (4 - samples)} tokens" in out
    rows = [line.replace("│", " ").split()[:3] for line in out.splitlines() if " strict " in line or " own " in line]
    assert rows[:3] == [["gsm8k", "strict", "0.0"], ["amc23", "strict", "0.0"], ["average", "own", "0.0"]]
    assert f"pass@{samples}" in out


def assert_refused(result: tuple[int, str, str], message: str) -> None:
    code, out, err = result
    assert (code, out) == (2, "")
    *progress, last = err.splitlines()
    assert message in last
    assert last.startswith("error: ")
    assert all("prepare" in line for line in progress)
    assert [path for path in Path.cwd().rglob("*") if path.is_file()] == []


OPTIONS = {
    "no samples": ("--samples 0", "--samples: should be at least 1, found 0"),
    "too many samples": ("--samples 2000", "--samples: should be at most 1024, found 2000"),
    "cold": ("--temperature -1", "--temperature: should be at least 0.0, found -1.0"),
    "no temperature": ("--temperature nan", "--temperature: should be a finite number, found nan"),
    "greedy samples": ("--temperature 0", "--samples: at temperature 0 every sample is the same: set `samples: 1`"),
    "no mass": ("--top-p 0", "--top-p: should be more than 0.0, found 0.0"),
    "no tokens": ("--max-new-tokens 0", "--max-new-tokens: should be at least 1, found 0"),
    "no questions": ("--limit 0", "--limit: should be at least 1, found 0"),
    "no width": ("--adaptive 0", "--adaptive: should be more than 0.0, found 0.0"),
    "adaptive single": ("--adaptive 1 --samples 1", "--samples: adaptive sampling chooses how many samples to draw"),
    "no engines": ("--replicas 0", "--replicas: should be at least 1, found 0"),
    "too many engines": ("--replicas 4000", "--replicas: too few CPUs: the cluster has "),
    "twice": ("--benchmarks arithmetic_1", "--benchmarks: benchmark named twice: arithmetic_1"),
    "unknown benchmark": ("--benchmarks arithmetik_2", "--benchmarks: unknown benchmark 'arithmetik_2'; did you mean "),
    "missing file": ("--benchmarks gsm8k=nope.jsonl", "--benchmarks: no file "),
    "no network": ("--benchmarks math500", "give the benchmark's file: --benchmarks math500=FILE.jsonl"),
    "prompt over the context": ("--max-model-len 16", "a prompt of 25 tokens leaves no room for an answer in a context "
                                "of 16; raise --max-model-len, or leave the question out"),
    "beyond the model": ("--max-model-len 5000", "--max-model-len is 5000, but the model's context is 4096 tokens"),
    "other family": ("--template deepseek_math", "which ends an answer under deepseek_math: set --template to its own "
                     "family, or to chat"),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS)
def test_a_bad_option_is_named(case: str, call: Call) -> None:
    options, message = OPTIONS[case]
    assert_refused(call("embedded", "--benchmarks", "arithmetic_1", *options.split()), message)


def test_a_question_without_an_answer_is_refused(call: Call, tmp_path: Path) -> None:
    (tmp_path / "gsm8k.jsonl").write_text('{"question": "q", "answer": "#### 1"}\n{"question": "r", "answer": "two"}\n')
    result = call("embedded", "--benchmarks", f"gsm8k={tmp_path}/gsm8k.jsonl")
    assert_refused(result, f"--benchmarks: {tmp_path}/gsm8k.jsonl: row 2: field 'answer' has no '####' before")


def _corrupt(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def _without_chat_template(directory: Path) -> None:
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "no model directory "),
    "no model": (
        lambda directory: (directory / "config.json").unlink(),
        "no config.json, so this is no model directory",
    ),
    "no tokenizer": (lambda directory: (directory / "tokenizer.json").unlink(), "model: "),
    "corrupt weights": (_corrupt, "model.safetensors: truncated; "),
    "no chat template": (_without_chat_template, "set --template to the model's family: qwen_boxed, "),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_checkpoint_is_refused(case: str, call: Call, tmp_path: Path) -> None:
    damage, message = DAMAGES[case]
    shutil.copytree(EMBEDDED, tmp_path / "model")
    damage(tmp_path / "model")
    assert_refused(call("embedded", tmp_path / "model", "--benchmarks", "arithmetic_1"), message)


def test_a_hub_that_cannot_be_reached(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    code, out, err = call("someone/a-model@v2", "--benchmarks", "arithmetic_1")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: someone/a-model@v2: no directory ")
    assert "and the hub does not give model 'someone/a-model': " in err


@pytest.mark.ray
@pytest.mark.slow
def test_engines_that_do_not_start_end_with_their_last_lines(tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "x"}}))
    outcome = run("evaluate", str(tmp_path / "model"), *ASKED, "--storage", str(tmp_path / "storage"))
    assert (outcome.code, outcome.left) == (3, [])
    assert "unreachable: the evaluation engines did not start within " in outcome.text
    assert "Unknown quantization method: x" in outcome.text
