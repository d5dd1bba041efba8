"""The specs of the paper's Figures 1 and 3: published settings, shared cells, and small twins that read and plan."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner

from dft_sweeps.cli.main import group
from dft_sweeps.orchestration.prepare import PreparedSweep, prepare
from dft_sweeps.spec.identity import ContentDigests, training_id
from dft_sweeps.spec.load import Sweep, load_sweep

SPECS = Path(__file__).parent.parent.parent / "sweep_specs"
FIGURES = ("figure1", "figure3_learning_rate", "figure3_batch_size")
CONTENT = ContentDigests("m" * 64, "d" * 64, "t" * 64)
STAND_INS = (
    "trial.model.path=embedded",
    "trial.data.source={kind: arithmetic, samples: 2560, seed: 11}",
    "trial.data.samples=2560",
    "trial.data.max_length=160",
    "trial.evaluation.benchmarks=[arithmetic_1]",
    "trial.evaluation.samplings.sampled.max_new_tokens=112",
    "trial.evaluation.steps=[5]",
    "pool.max_model_len=256",
)


def loaded(name: str, *overrides: str) -> Sweep:
    return load_sweep(SPECS / f"{name}.yaml", overrides)


@cache
def twin(name: str) -> PreparedSweep:
    return prepare(loaded(f"{name}_quickstart"))


def ids(sweep: PreparedSweep) -> set[str]:
    return {trial.training_id for trial in sweep.trials}


def test_figure_1_is_as_published() -> None:
    sweep = loaded("figure1")
    assert [trial.spec.train.objective.kind for trial in sweep.trials] == ["sft", "dft"]
    for trial in sweep.trials:
        spec, train = trial.spec, trial.spec.train
        assert (spec.model.path, spec.data.source.kind) == ("Qwen/Qwen2.5-Math-1.5B", "numinamath_cot")
        assert (spec.data.samples, spec.data.max_length) == (100_000, 2048)
        assert (train.learning_rate, train.batch_size, train.epochs) == (5e-5, 256, 1)
        assert (train.schedule.kind, train.schedule.warmup_ratio) == ("cosine", 0.1)
        names = [benchmark.name for benchmark in spec.evaluation.benchmarks]
        assert names == ["math500", "minerva_math", "olympiadbench", "aime24", "amc23"]
        [sampling] = spec.evaluation.samplings.values()
        assert (sampling.samples, sampling.temperature, sampling.max_new_tokens) == (16, 1.0, 4096)
        due = spec.evaluation.due(390)
        assert due[:15] == (0, 5, *range(10, 121, 10), 150) and due[-1] == 390


def test_figure_3_varies_one_setting_of_figure_1() -> None:
    rates = {trial.spec.train.learning_rate for trial in loaded("figure3_learning_rate").trials}
    sizes = {trial.spec.train.batch_size for trial in loaded("figure3_batch_size").trials}
    assert (rates, sizes) == ({2e-4, 1e-4, 5e-5, 1e-5}, {32, 64, 128, 256})
    trained = [{training_id(trial.spec, CONTENT) for trial in loaded(name).trials} for name in FIGURES]
    assert [len(each) for each in trained] == [2, 8, 8]
    assert trained[0] == trained[1] & trained[2]
    assert len(set.union(*trained)) == 14


def test_the_twins_share_their_common_cells() -> None:
    figure1, rate, size = map(twin, FIGURES)
    assert (len(ids(rate)), len(ids(size)), len(ids(rate) | ids(size))) == (8, 8, 14)
    assert ids(figure1) == ids(rate) & ids(size)
    assert figure1.measures == rate.measures == size.measures  # so that results are shared, not weights alone
    assert {trial.facts.steps for trial in size.trials} == {40, 80, 160, 320}


@pytest.mark.parametrize("name", FIGURES)
def test_the_originals_can_be_prepared_with_stand_ins_for_what_the_hub_has(name: str) -> None:
    large = prepare(loaded(name, *STAND_INS))
    assert [trial.trial.axes.keys() for trial in large.trials] == [
        trial.trial.axes.keys() for trial in twin(name).trials
    ]
    for trial in large.trials:
        assert trial.facts.steps == 2560 // trial.trial.spec.train.batch_size
        assert (trial.trial.preset.name, trial.trial.spec.model.parameter_dtype) == ("paper", "bfloat16")


@pytest.mark.parametrize("name", FIGURES)
def test_the_twins_pass_plan_and_need_two_cores(name: str, tmp_path: Path) -> None:
    arguments = ["plan", str(SPECS / f"{name}_quickstart.yaml"), "--storage", str(tmp_path), "--json"]
    result = CliRunner().invoke(group, arguments, prog_name="dft-sweeps")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert {trial["fingerprint"] for trial in plan["trials"]} == ids(twin(name))
    assert not plan["missing"]
    execution, pool = twin(name).sweep.spec.execution, twin(name).sweep.spec.pool
    assert (execution.workers * execution.cpus_per_worker, pool.replicas * pool.cpus_per_engine) == (1, 1)
    assert execution.gpus_per_worker == pool.gpus_per_engine == 0
