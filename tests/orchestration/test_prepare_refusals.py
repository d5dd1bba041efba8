"""A mistake in what a spec names costs one message, with its place in the spec, and no run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dft_sweeps.cli.prompts_in_words import sampling_in_words
from dft_sweeps.evaluation.benchmarks import benchmark_names
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.training.model_files import EMBEDDED
from tests.orchestration.file_sweep import QUESTIONS, ROWS, SPEC, prepared, refusal, write_files, write_rows

Change = Callable[[Path], object]
DATA = "files.yaml:5: trial.data.source.path: "
BENCHMARK = "files.yaml:14: trial.evaluation.benchmarks[0]: "


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_files(tmp_path)


def test_a_home_that_there_is_not(directory: Path) -> None:
    path = "~nobody-here/policy"
    for old, words in (("embedded", "no model directory"), ("rows.jsonl", "no file"), ("questions.jsonl", "no file")):
        message = refusal(directory, f"path: {old}", f"path: {path}")
        assert f"{words} " in message and message.endswith(path), message


def test_data_that_is_missing(directory: Path) -> None:
    assert refusal(directory, "rows.jsonl", "nope.jsonl") == f"{DATA}no file {directory}/nope.jsonl"
    assert refusal(directory, "rows.jsonl", ".").startswith(f"{DATA}no file {directory}")
    (directory / "rows.csv").touch()
    message = refusal(directory, "rows.jsonl", "rows.csv")
    assert message.startswith(DATA)
    assert "a data file ends in .jsonl, .json (one object per line) or .parquet" in message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "4+1="}', "row 4: no field 'completion'; it has 'prompt'"),
        ('{"prompt": "4+1=", "completion": 5}', "row 4: field 'completion' is int, not text"),
        ('{"prompt": null, "completion": "5"}', "row 4: field 'prompt' is NoneType, not text"),
        ("{}", "row 4: no field 'prompt'; it has none"),
        ("[1]", "row 4: expected a JSON object, found list"),
        ('{"prompt": ', "row 4: not JSON"),
    ],
)
def test_a_bad_row_is_named_by_its_number(line: str, words: str, directory: Path) -> None:
    lines = [json.dumps(row) for row in ROWS]
    lines[3] = line
    (directory / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    message = refusal(directory)
    assert message.startswith(f"{DATA}{directory}/rows.jsonl: ")
    assert words in message


def test_data_that_is_not_what_it_should_be(directory: Path) -> None:
    other_field = refusal(directory, "path: rows.jsonl", "path: rows.jsonl, prompt: question")
    assert "row 1: no field 'question'; it has 'prompt', 'completion'" in other_field
    (directory / "rows.jsonl").write_bytes(b"\xff\xfe\n")
    assert "not UTF-8 text" in refusal(directory)
    (directory / "rows.jsonl").write_bytes(b"\n\n")
    assert refusal(directory) == f"{DATA}file source has no rows"


def test_completions_that_are_too_long_are_counted(directory: Path) -> None:
    write_rows(directory / "rows.jsonl", ROWS + [{"prompt": "1+1=", "completion": "2" * 99}] * 3)
    message = refusal(directory, "max_length: 64", "max_length: 64\n    overflow: error")
    assert message.startswith("files.yaml:4: trial.data: 3 of 13 samples are longer than max_length 64 (the longest ")
    assert message.endswith("raise `data.max_length` or set `data.overflow: drop`")
    every = refusal(directory, "max_length: 64", "max_length: 2")
    assert every == "files.yaml:4: trial.data: no sample is left of 13: they are longer than max_length 2"
    cut = refusal(directory, "max_length: 64", "max_length: 2\n    overflow: truncate")
    assert cut == "files.yaml:4: trial.data: no sample is left of 13: their prompts alone fill max_length 2"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("max_length: 64", "max_length: 64\n    samples: 11",
         "4: trial.data: data.samples is 11, but the source has 10 rows"),
        ("batch_size: 4", "batch_size: 11",
         "10: trial.train.batch_size: train.batch_size is 11, but there are only 10 samples"),
        ("steps: 6", "epochs: 6e6",
         "11: trial.train.epochs: 12,000,000 optimizer steps; at most 10,000,000 are planned"),
        ("steps: [1]", "steps: [1, 7]",
         "16: trial.evaluation.steps[1]: step 7 is beyond the last, which is 6 in the trial 'objective=sft'"),
        ("max_length: 64", "max_length: 9999",
         "6: trial.data.max_length: 9999 tokens, but the model's context is 4096 tokens"),
        ("max_length: 64", "seed: 0",
         None),
        ("max_model_len: 400", "max_model_len: 8000",
         "22: pool.max_model_len: 8000 tokens, but the model's context is 4096 tokens"),
    ],
)  # fmt: skip
def test_numbers_that_do_not_fit_together(old: str, new: str, expected: str | None, directory: Path) -> None:
    if expected is None:
        assert prepared(directory, SPEC.replace(old, new)).trials
    else:
        assert refusal(directory, old, new) == f"files.yaml:{expected}"


def test_a_mistake_in_the_value_of_an_axis_or_a_variant_is_reported_there(directory: Path) -> None:
    axis = "axes:\n  data.source.path: [rows.jsonl, nope.jsonl]\n"
    message = refusal(directory, "axes:\n", axis)
    assert message == f"files.yaml:20: axes.data.source.path[1]: no file {directory}/nope.jsonl"
    variant = "variants: [{name: big, set: {train.batch_size: 11}}]\naxes:\n"
    assert refusal(directory, "axes:\n", variant).startswith("files.yaml:19: variants[0].set.train.batch_size: ")
    longer = "axes:\n  data.samples: [10, 11]\n"
    assert refusal(directory, "axes:\n", longer) == (
        "files.yaml:4: trial.data: data.samples is 11, but the source has 10 rows "
        "(in the trial 'samples=11 objective=sft')"
    )
    samplings = "    samplings:\n      sampled: {max_new_tokens: 16}\naxes:\n"
    message = refusal(directory, f"[1]\n{samplings}", f"[4]\n{samplings}  train.steps: [6, 3]\n")
    assert message == (
        "files.yaml:16: trial.evaluation.steps[0]: step 4 is beyond the last, "
        "which is 3 in the trial 'steps=3 objective=sft'"
    )


def test_a_presets_value_that_does_not_fit_names_the_preset(directory: Path) -> None:
    paper = refusal(directory, "    batch_size: 4\n    steps: 6\n", "  preset: paper\n")
    assert paper == (
        "files.yaml:7: trial.train.batch_size: train.batch_size is 256, but there are only 10 samples "
        "(the preset 'paper' sets train.batch_size to 256)"
    )


def test_numinamath_that_is_not_there(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numina = "{kind: numinamath_cot, path: rows.jsonl}"
    message = refusal(directory, "{kind: file, path: rows.jsonl}", numina)
    assert message == f"{DATA}{directory}/rows.jsonl: row 1: no field 'problem'; it has 'prompt', 'completion'"
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal(directory, "{kind: file, path: rows.jsonl}", "{kind: numinamath_cot}")
    assert message.startswith("files.yaml:5: trial.data.source: dataset 'AI-MO/NuminaMath-CoT' (split 'train') cannot ")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("{kind: sft}", "{kind: eaft, top: 1000}", "8: trial.train.objective.top: 1000 tokens, but the model "),
        ("steps: 6", "steps: 6\n    adapter: {kind: lora, target: [q_proj, k_prj]}",
         "12: trial.train.adapter.target: no linear module 'k_prj' in the model; did you mean 'k_proj'?"),
        ("steps: 6", "steps: 6\n    adapter: {kind: lora, target: [lm_head]}",
         "12: trial.train.adapter.target: no linear module 'lm_head' in the model; valid are down_proj, "),
        ("steps: 6", "steps: 6\n    adapter: {kind: lora, target: [embed_tokens]}",
         "12: trial.train.adapter.target: no linear module 'embed_tokens' in the model; valid are "),
        ("pool:", "execution: {gpus_per_worker: 1, attention: flash_attention_2}\npool:", "3: trial.model.dtype: "),
    ],
)  # fmt: skip
def test_what_the_model_cannot_be_trained_with(old: str, new: str, expected: str, directory: Path) -> None:
    axes = "axes:\n  train.objective.kind: [sft, dft]\n"
    text = SPEC.replace(axes, "").replace(old, new).replace("path: embedded", "path: embedded, dtype: float32")
    with pytest.raises(SpecError) as caught:
        prepared(directory, text)
    assert str(caught.value).removeprefix(f"{directory}/").startswith(f"files.yaml:{expected}")


def test_adapters_on_modules_that_are_there(directory: Path) -> None:
    for target in ("all-linear", "[q_proj, v_proj]", "[self_attn.q_proj]"):
        adapter = f"steps: 6\n    adapter: {{kind: lora, target: {target}}}"
        assert prepared(directory, SPEC.replace("steps: 6", adapter)).trials


def test_trials_that_train_the_same_policy(directory: Path) -> None:
    shutil.copy(directory / "rows.jsonl", directory / "copy.jsonl")
    axis = "axes:\n  data.source.path: [rows.jsonl, copy.jsonl]\n"
    assert "train the same policy on the same data (t-" in refusal(directory, "axes:\n", axis)
    inert = "axes:\n  train.normalization.ranks: [1, 2]\n"
    assert "train the same policy on the same data (t-" in refusal(directory, "axes:\n", inert)
    # What a search may propose, however late.
    search = "search:\n  kind: tpe\n  trials: 3\n  batch: 1\n  space:\n"
    rate = "    train.learning_rate: {kind: uniform, low: 0.1, high: 0.2}\n"
    choice = "    train.normalization.ranks: {kind: choice, values: [1, 2]}\n"
    text = f"{search}{rate}{choice}axes:\n"
    assert "train the same policy on the same data (t-" in refusal(directory, "axes:\n", text)


def test_an_unknown_benchmark_is_answered_with_the_nearest_and_all(directory: Path) -> None:
    assert refusal(directory, "name: gsm8k", "name: gsm8") == (
        f"{BENCHMARK}unknown benchmark 'gsm8'; did you mean 'gsm8k'?"
    )
    valid = ", ".join(benchmark_names())
    assert refusal(directory, "name: gsm8k", "name: zzz") == f"{BENCHMARK}unknown benchmark 'zzz'; valid are {valid}"


def test_benchmark_files_that_are_missing_or_bad(directory: Path) -> None:
    assert refusal(directory, "questions.jsonl", "nope.jsonl") == f"{BENCHMARK}no file {directory}/nope.jsonl"
    write_rows(directory / "questions.jsonl", [*QUESTIONS, {"question": "What is 1+1?"}])
    message = refusal(directory)
    assert message.startswith(f"{BENCHMARK}{directory}/questions.jsonl: row 6: no text or number in field 'answer'")
    write_rows(directory / "questions.jsonl", [{"question": "What is 1+1?", "answer": "2"}])
    assert "row 1: field 'answer' has no '####' before an answer" in refusal(directory)
    write_rows(directory / "questions.jsonl", [])
    assert refusal(directory) == f"{BENCHMARK}{directory}/questions.jsonl: no questions"


def test_a_prompt_that_leaves_no_room(directory: Path) -> None:
    message = refusal(directory, "max_model_len: 400", "max_model_len: 16")
    assert message.startswith(f"{BENCHMARK}benchmark 'gsm8k', question '1': a prompt of ")
    assert "leaves no room for an answer in a context of 16" in message
    message = refusal(directory, "max_new_tokens: 16", "max_new_tokens: 16, context: 401")
    assert "samplings.sampled.context: 401 tokens, but engines take pool.max_model_len, which is 400" in message


def test_answers_that_the_context_cuts_off_are_said(directory: Path) -> None:
    assert sampling_in_words(prepared(directory)) == []
    [line] = sampling_in_words(prepared(directory, SPEC.replace("max_new_tokens: 16", "max_new_tokens: 390")))
    assert "gsm8k (sampled): 5 of 5 questions have room for fewer than 390 new tokens (the fewest: " in line
    assert "in a context of 400; completions that reach its end count as truncated." in line


def _remove(name: str) -> Change:
    return lambda policy: (policy / name).unlink()


def _configure(name: str, **changes: object) -> Change:
    def change(policy: Path) -> None:
        config = json.loads((policy / name).read_text(encoding="utf-8")) | changes
        (policy / name).write_text(json.dumps({key: value for key, value in config.items() if value is not None}))

    return change


def _truncate(policy: Path) -> None:
    weights = policy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


MODELS: dict[str, tuple[Change, str]] = {
    "no directory": (shutil.rmtree, "no model directory"),
    "no config": (_remove("config.json"), "no config.json, so this is no model directory"),
    "no weights": (_remove("model.safetensors"), "no safetensors files; other weight formats are not read"),
    "truncated weights": (_truncate, "model.safetensors: truncated; "),
    "other weights": (lambda policy: (policy / "model.safetensors").write_bytes(b"GGUF"), "not a safetensors file"),
    "no tokenizer": (_remove("tokenizer.json"), "policy: no tokenizer"),
    "no template": (_configure("tokenizer_config.json", chat_template=None), "tokenizer has no chat template"),
    "wider than its weights": (_configure("config.json", hidden_size=256), "has the wrong shape of"),
    "more words than its weights": (_configure("config.json", vocab_size=999), "has the wrong shape of"),
    "unknown architecture": (_configure("config.json", model_type="frob"), "the model does not load"),
    "config is no JSON": (lambda policy: (policy / "config.json").write_text("{"), "the model does not load"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_does_not_load(name: str, directory: Path) -> None:
    shutil.copytree(EMBEDDED, directory / "policy")
    change, words = MODELS[name]
    change(directory / "policy")
    message = refusal(directory, "embedded", "./policy")
    place = "12: trial.evaluation.template" if name == "no template" else "3: trial.model.path"
    assert message.startswith(f"files.yaml:{place}: ")
    assert words in message


def test_a_revision_of_a_local_model(directory: Path) -> None:
    message = refusal(directory, "path: embedded", "path: embedded, revision: main")
    assert message.startswith("files.yaml:3: trial.model.revision: a model of the hub has revisions, but 'embedded'")


def test_a_model_of_a_hub_that_cannot_be_reached(directory: Path) -> None:
    message = refusal(directory, "embedded", "nobody/nothing")
    assert message.startswith(f"files.yaml:3: trial.model.path: no directory {directory}/nobody/nothing, and the hub ")


def test_files_that_cannot_be_opened(directory: Path) -> None:
    name = "x" * 300
    assert refusal(directory, "rows.jsonl", name).startswith(f"{DATA}[Errno 36] File name too long: ")
    assert refusal(directory, "questions.jsonl", name).startswith(f"{BENCHMARK}[Errno 36] File name too long: ")
    assert refusal(directory, "embedded", name).startswith("files.yaml:3: trial.model.path: [Errno 36] File name too")


def test_a_model_that_is_a_file_or_several(directory: Path) -> None:
    assert "is a file; give the directory" in refusal(directory, "embedded", "rows.jsonl")
    message = refusal(directory, "axes:\n", "axes:\n  model.path: [embedded, ./policy]\n")
    assert message.startswith("files.yaml:20: axes.model.path[1]: the trials of a sweep share one model")
    assert "found 'embedded' and './policy'" in message
