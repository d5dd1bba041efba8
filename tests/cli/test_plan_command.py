"""`dft-sweeps plan` and `--help`: what they print, and what they cost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dft_sweeps.cli import plan
from dft_sweeps.cli.gather import this_machine
from dft_sweeps.cli.main import COMMANDS, group
from dft_sweeps.data.sources import STEP_BY_STEP
from dft_sweeps.spec.costs import Measurement, engine_shape, training_shape
from dft_sweeps.spec.load import load_sweep
from dft_sweeps.spec.placement import ClusterFacts
from dft_sweeps.tracking.measurements import DEVICE_TAG, MEASURED_TAG, MODEL_TAG
from dft_sweeps.tracking.writer import Tracker
from tests.spec.example import SPEC, edited, write

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
        assert trial["gpu_hours"] == 0 < trial["cpu_hours"]
        assert trial["evaluation_tokens"] == 40 * trial["completions"]  # as the spec declares
        assert trial["seconds"] > trial["tokens"] / 9000
    assert found["prompts"] == "Training and evaluation prompts agree (written by the tokenizer's chat template)."
    total = found["total"]
    assert total["tokens"] == sum(trial["tokens"] for trial in trials)
    assert total["seconds"] > total["tokens"] / 9000
    assert (total["gpu_hours"], total["money"]) == (0, None)
    assert found["reckoned_with"]["training"] == ["declared"]
    assert not (tmp_path / "storage").exists()


def test_plan_in_words(tmp_path: Path) -> None:
    result = planned(tmp_path / "storage", write(tmp_path), "--set", "trial.train.steps=20")
    lines = " ".join(result.stdout.split())
    assert "noisy objective=sft learning_rate=3e-4" in result.stdout
    assert "8 of 8 trials to run" in lines
    assert "(the base model's 220 are shared by all trials)" in lines
    assert lines.endswith("of them at a time.")
    assert "In all ?, 0 GPU-hours and ? CPU-hours, waiting engines included." in lines
    assert (
        "Reckoned with: training speed unknown, engine speed unknown, length of completions taken as max_new_tokens, "
        "the most. Declare cost.train_tokens_per_second and cost.completion_tokens_per_second, or run a trial first, "
        "for what is unknown." in lines
    )
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


GPUS = """
execution: {workers: 1, gpus_per_worker: 1}

pool:
  max_model_len: 256
  gpus_per_engine: 1

cost: {train_tokens_per_second: 1000, completion_tokens_per_second: 500, price_per_gpu_hour: 2}
budget: {money: 0.001, gpu_hours: 100}
"""


def test_plan_says_what_it_costs_and_that_it_is_over_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = SPEC[: SPEC.index("\nexecution:")] + GPUS
    monkeypatch.setattr("dft_sweeps.cli.gather.this_machine", lambda: ClusterFacts(8, 5))
    spec = write(tmp_path, text)
    found = json.loads(planned(tmp_path, spec, "--json").stdout)
    total = found["total"]
    alone = sum(trial["gpu_hours"] for trial in found["trials"])
    assert total["gpu_hours"] > alone > 0  # the engine waits, too
    assert total["money"] == pytest.approx(2 * total["gpu_hours"])
    assert (found["concurrent_trials"], found["missing"]) == (4, "")
    assert found["budget"] == {"gpu_hours": 100.0, "cpu_hours": None, "money": 0.001}
    result = planned(tmp_path, spec)
    words = " ".join(result.stdout.split())
    assert f"At 2 per GPU-hour that is {total['money']:.2g}." in words
    assert f"Budget: 0.001 in money; the plan needs {total['money']:.3g}: it would be refused." in words
    assert f"Budget: 100 GPU-hours; the plan needs {total['gpu_hours']:.3g}." in words
    assert "GPU-h" in words and "CPU-h " not in words


def test_plan_reckons_with_what_was_measured(tmp_path: Path) -> None:
    spec = write(tmp_path)
    before = json.loads(planned(tmp_path, spec, "--json").stdout)
    assert before["total"]["seconds"] is None
    sweep = load_sweep(spec)
    measured = Measurement(
        training_shape(sweep.trials[0].spec, sweep.spec.execution), engine_shape(sweep.spec.pool), "sft",
        workers_start_s=9.0, start_s=1.0, train_s=2.0, train_tokens=4000, evaluation_s=1.0, evaluation_tokens=3000,
        lengths={"arithmetic_1/96": [300, 10]},
    )  # fmt: skip
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"))
    parent = tracker.open_sweep("other", "s-other", "name: other\n", [], "m")
    tags = {MODEL_TAG: before["model"]["weights_digest"], MEASURED_TAG: measured.to_json()}
    device = this_machine().devices
    assert device is not None
    tracker.open_trial(parent, "t-1", "here", {}, tags | {DEVICE_TAG: device[0]})
    tracker.open_trial(parent, "t-2", "elsewhere", {}, tags | {DEVICE_TAG: "NVIDIA H100", MEASURED_TAG: "not read"})
    after = json.loads(planned(tmp_path, spec, "--json").stdout)
    reckoned = after["reckoned_with"]
    assert (reckoned["training"], reckoned["engine"], reckoned["lengths"]) == (
        ["measured"],
        "measured",
        ["at most", "measured"],
    )
    assert (reckoned["workers_start_s"], reckoned["completion_tokens_per_second"]) == (9.0, 3000.0)
    [speed] = {(trial["tokens_per_second"], trial["start_s"]) for trial in after["trials"]}
    assert speed == (2000.0, 1.0)
    assert after["total"]["seconds"] > 45 + 9 + after["trials"][0]["tokens"] / 2000


@pytest.mark.parametrize(("gpus", "measure"), [(False, "CPU-h"), (True, "GPU-h")])
def test_the_table_fits_100_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: bool, measure: str) -> None:
    monkeypatch.setattr("dft_sweeps.cli.printing.PIPE_WIDTH", 100)
    sets = ("--set", "execution.gpus_per_worker=1", "--set", "pool.gpus_per_engine=1") if gpus else ()
    lines = planned(tmp_path, QUICKSTART, *sets).stdout.splitlines()
    table = lines[: next(index for index, line in enumerate(lines) if line.startswith("Sweep "))]
    assert max(map(len, table)) <= 100
    rows = [line.split() for line in table if " t-" in line]
    assert len(rows) == 6
    assert rows[0][2:8] == ["60", "32", "1", "116k", "4", "90k"]
    assert {len(row[1]) for row in rows} == {18}  # no id is cut
    assert any(line.split()[-2:] == [measure, "time"] for line in table)
    assert "Evaluated after the steps 0, 20, 40, 60." in lines


@pytest.mark.ray
@pytest.mark.slow
def test_plan_for_a_cluster_of_several_nodes(tmp_path: Path) -> None:
    """Two nodes of 2 and 3 CPUs: five in sum, but no worker of 4 ever fits; nothing is started there."""
    ended = subprocess.run(
        [sys.executable, "-c", CLUSTER.format(spec=str(QUICKSTART), storage=str(tmp_path))],
        capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    fits, too_large = (json.loads(part) for part in ended.stdout.split("====")[1:3])
    assert (fits["concurrent_trials"], fits["missing"]) == (4, "")
    assert too_large["concurrent_trials"] == 0
    assert too_large["missing"] == "too few CPUs on every node: one worker needs 4, and the largest node has 3"
    assert json.loads(ended.stdout.split("====")[3]) == []


CLUSTER = """
import json, os, subprocess, sys
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
from ray.cluster_utils import Cluster
from dft_sweeps.orchestration.cluster import free_port

port = free_port()
head = {{"num_cpus": 2, "num_gpus": 0, "include_dashboard": True, "dashboard_port": port}}
cluster = Cluster(initialize_head=True, head_node_args=head)
cluster.add_node(num_cpus=3, num_gpus=0)
cluster.wait_for_nodes()
try:
    for more in ([], ["--set", "execution.cpus_per_worker=4"]):
        command = [sys.executable, "-m", "dft_sweeps.cli.main", "plan", "{spec}", "--storage", "{storage}", "--json"]
        ended = subprocess.run([*command, "--address", cluster.address, *more], capture_output=True, text=True)
        print("====", ended.stdout if ended.returncode == 0 else ended.stderr)
    import ray
    from ray.util.state import list_actors
    ray.init(cluster.address, log_to_driver=False)
    actors = list_actors(f"http://127.0.0.1:{{port}}")
    print("====", json.dumps([actor.class_name for actor in actors if actor.state == "ALIVE"]))
    ray.shutdown()
finally:
    cluster.shutdown()
"""


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
