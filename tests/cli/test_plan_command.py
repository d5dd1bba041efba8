"""`dft-sweeps plan` and `--help`: what they print, and what they cost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dft_sweeps.cli import plan
from dft_sweeps.cli.main import COMMANDS, group
from dft_sweeps.data.sources import STEP_BY_STEP
from dft_sweeps.tracking.writer import Tracker
from tests.spec.example import edited, write

QUICKSTART = Path(__file__).parent.parent.parent / "sweep_specs" / "quickstart.yaml"

HELP = """
import resource, sys
from dft_sweeps.cli.main import group
try:
    group.main(["--help"])
except SystemExit as ended:
    assert ended.code == 0
heavy = {"torch", "ray", "mlflow", "transformers", "vllm", "matplotlib", "datasets", "numpy", "scipy", "pydantic"}
used = resource.getrusage(resource.RUSAGE_SELF)
print("\\n", used.ru_utime + used.ru_stime, sorted(heavy & sys.modules.keys()), file=sys.stderr)
"""


def test_help_is_quick_and_names_every_command() -> None:
    ended = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, timeout=60, check=True)
    for name, (_, words) in COMMANDS.items():
        assert f"  {name} " in ended.stdout
        assert words.split(",")[0] in " ".join(ended.stdout.split())
    seconds, modules = ended.stderr.split(maxsplit=1)
    assert modules.strip() == "[]"
    assert float(seconds) < 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_help(name: str) -> None:
    result = CliRunner().invoke(group, [name, "--help"], prog_name="dft-sweeps")
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: dft-sweeps {name} ")


def planned(storage: Path, *arguments: str | Path) -> Result:
    result = CliRunner().invoke(plan.command, ["--storage", str(storage), *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result


def test_plan_of_the_quickstart(tmp_path: Path) -> None:
    found = json.loads(planned(tmp_path / "storage", QUICKSTART, "--json").stdout)
    assert found["name"] == "quickstart"
    assert found["sweep"].startswith("s-")
    assert found["model"]["parameters"] > 100_000
    trials = found["trials"]
    assert len(trials) >= 4
    assert len({trial["fingerprint"] for trial in trials}) == len({trial["name"] for trial in trials}) == len(trials)
    assert {trial["axes"]["train.objective.kind"] for trial in trials} == {"sft", "dft"}
    for trial in trials:
        assert trial["fingerprint"].startswith("t-")
        assert trial["evaluated_steps"][0] == 0
        assert trial["evaluated_steps"][-1] == trial["steps"]
        assert trial["tokens"] > trial["steps"] * trial["batch_size"]
        assert trial["completions"] == (len(trial["evaluated_steps"]) - 1) * found["base_completions"]
        assert (trial["done"], trial["overlong"], trial["dropped"]) == (False, 0, 0)
        assert trial["preset"]["name"] == "corrected"
        assert trial["preset"]["values"]["model.dtype"] == "float32"
    assert found["prompts"] == "Training and evaluation prompts agree (written by the tokenizer's chat template)."
    assert not (tmp_path / "storage").exists()


def test_plan_in_words(tmp_path: Path) -> None:
    result = planned(tmp_path / "storage", write(tmp_path), "--set", "trial.train.steps=20")
    lines = " ".join(result.stdout.split())
    assert "noisy objective=sft learning_rate=3e-4" in result.stdout
    assert "8 of 8 trials to run" in lines
    assert "(the base model's 220 are shared by all trials)" in lines
    assert lines.endswith("of them at a time.")
    assert not (tmp_path / "storage").exists()


def test_plan_says_what_is_left_out_and_what_is_missing(tmp_path: Path) -> None:
    text = edited("max_length: 160", "max_length: 100\n    overflow: drop").replace("workers: 1", "workers: 999")
    spec = write(tmp_path, text)
    words = " ".join(planned(tmp_path, spec).stdout.split())
    found = json.loads(planned(tmp_path, spec, "--json").stdout)
    noisy, clean = ({trial["overlong"] for trial in half} for half in (found["trials"][:4], found["trials"][4:]))
    assert min(noisy) > 0 and len(noisy) == len(clean) == 1
    assert clean == {0}
    assert f"{max(noisy)} samples of `noisy objective=sft learning_rate=3e-4` are longer than data.max_length" in words
    assert words.count("samples of `noisy ") == 4 and "samples of `clean " not in words
    same = " ".join(planned(tmp_path, spec, "--set", "variants=[]").stdout.split())
    assert f"{max(noisy)} samples of each trial's data are longer than data.max_length and left out." in same
    assert same.count("left out") == 1
    assert found["concurrent_trials"] == 0
    assert found["missing"].startswith("too few CPUs: ")
    assert found["missing"] in words


def test_plan_of_the_small_crossing(tmp_path: Path) -> None:
    found = json.loads(
        planned(tmp_path / "storage", QUICKSTART.with_name("recipe_2x2_quickstart.yaml"), "--json").stdout
    )
    cells = {tuple(trial["axes"].values()) for trial in found["trials"]}
    assert len(cells) == len({trial["fingerprint"] for trial in found["trials"]}) == 32
    assert {cell[:3] for cell in cells} == {
        (dtype, summed, objective)
        for dtype in ("float32", "bfloat16")
        for summed in (False, True)
        for objective in ("sft", "dft")
    }


def test_plan_says_what_the_preset_set_and_what_becomes_of_overlong_samples(tmp_path: Path) -> None:
    text = edited("max_length: 160", "max_length: 24").replace("  train:\n", "  preset: paper\n  train:\n")
    spec = write(tmp_path, text)
    words = " ".join(planned(tmp_path, spec, "--set", "variants=[]").stdout.split())
    trial = json.loads(planned(tmp_path, spec, "--set", "variants=[]", "--json").stdout)["trials"][0]
    assert f"Recipe: {trial['preset']['words']}." in words
    assert trial["preset"]["words"].startswith("preset paper: computed in bfloat16, parameters and AdamW moments in ")
    assert 0 < trial["dropped"] < trial["overlong"]
    assert (
        f"{trial['overlong']} samples of each trial's data are longer than data.max_length and cut off there; "
        f"{trial['dropped']} of them left out, for their prompts alone fill it." in words
    )


def test_plan_tells_recipes_and_prompts_apart(tmp_path: Path) -> None:
    text = edited("  train.learning_rate", "  preset: [corrected, paper]\n  train.learning_rate")
    questions = tmp_path / "amc23.jsonl"
    questions.write_text('{"question": "What is 1+1?", "answer": 2}\n', encoding="utf-8")
    benchmark = f"trial.evaluation.benchmarks=[{{name: amc23, path: {questions}}}]"
    axis = f"axes.data.instruction={json.dumps(['', STEP_BY_STEP])}"
    spec = write(tmp_path, text)
    arguments = ["--set", benchmark, "--set", axis, "--set", "pool.max_model_len=400"]
    words = " ".join(planned(tmp_path, spec, *arguments).stdout.split())
    assert "Recipe of 16 trials: preset corrected: computed in float32, " in words
    assert "Recipe of 16 trials: preset paper: computed in bfloat16, " in words
    differ = "Training and evaluation prompts differ in 16 of 32 trials. What follows a question: in training nothing; "
    assert f"{differ}in amc23 {STEP_BY_STEP!r}." in words


def test_plan_knows_what_is_done(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    spec = write(tmp_path)
    plan = json.loads(planned(tmp_path, spec, "--json").stdout)
    before = plan["trials"]
    tracker = Tracker(uri, str(tmp_path / "artifacts"))
    parent = tracker.open_sweep("other", "s-other", "name: other\n", [], plan["measures"])
    for trial, status in zip(before, ("FINISHED", "FAILED"), strict=False):
        run = tracker.open_trial(parent, trial["fingerprint"], trial["name"], {}, {})
        tracker.finish(run, status)  # type: ignore[arg-type]
    after = json.loads(planned(tmp_path, spec, "--json").stdout)["trials"]
    assert [trial["done"] for trial in after] == [True] + [False] * 7
    assert [trial["fingerprint"] for trial in after] == [trial["fingerprint"] for trial in before]
    words = planned(tmp_path, spec).stdout
    assert "7 of 8 trials to run" in " ".join(words.split())
    elsewhere = planned(tmp_path / "elsewhere", spec, "--tracking-uri", uri, "--json").stdout
    assert json.loads(elsewhere)["trials"] == after
    assert not (tmp_path / "elsewhere").exists()


def test_plan_says_the_smallest_difference_that_each_benchmark_can_show(tmp_path: Path) -> None:
    """About 7 points on AIME and 11 on AMC at 16 samples, and that these are optimistic."""
    sizes = {"aime24": 30, "amc23": 40}
    for name, questions in sizes.items():
        rows = [{"problem": f"{index}?", "question": f"{index}?", "answer": index} for index in range(questions)]
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    listed = [f"{{name: {name}, path: {tmp_path / name}.jsonl}}" for name in sizes]
    sets = ("--set", f"trial.evaluation.benchmarks=[{', '.join(listed)}]", "--set", "pool.max_model_len=256")
    samplings = "{sampled: {samples: 16, max_new_tokens: 100}, greedy: {temperature: 0.0, max_new_tokens: 100}}"
    sets = (*sets, "--set", f"trial.evaluation.samplings={samplings}")
    document = json.loads(planned(tmp_path / "storage", QUICKSTART, *sets, "--json").stdout)
    found = {each["benchmark"]: each for each in document["smallest_differences"]}
    assert {name: round(100 * each["new_questions"], 1) for name, each in found.items()} == {
        "aime24": 6.7,
        "amc23": 11.0,
    }
    assert {name: round(100 * each["fixed_list"], 1) for name, each in found.items()} == {"aime24": 3.3, "amc23": 5.4}
    assert {(each["sampling"], each["samples"], each["optimistic"]) for each in found.values()} == {
        ("sampled", 16, True)
    }
    text = planned(tmp_path / "storage", QUICKSTART, *sets).stdout
    assert [
        part for part in ("6.7 *", "11.0 *", "chance 80%", "Assumed:", "* Optimistic on sets") if part not in text
    ] == []
