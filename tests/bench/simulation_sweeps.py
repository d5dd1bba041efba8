"""The sweeps that are simulated: Figure 3 of the paper on 8 GPUs, and 1,000 trials on 500 nodes.

Models, data and questions are stood in for by what is embedded or written here; steps, batches, samples, evaluated
steps and what trials and engines take of a cluster are those of the specs. Speeds are declared: those that
`sweep_specs/recipe_2x2.yaml` assumes of one H100, 100,000 samples in 20 minutes and 5,436 completions in 4.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from dft_sweeps.orchestration.prepare import PreparedSweep, PreparedTrial, prepare
from dft_sweeps.spec.load import load_sweep
from dft_sweeps.spec.placement import ClusterFacts, Resources
from dft_sweeps.training.order import total_steps
from tests.bench.simulation_services import Speeds

SPECS = Path(__file__).parents[2] / "sweep_specs"
SAMPLES_PER_S = 100_000 / (20 * 60)
COMPLETIONS_PER_S = 5_436 / (4 * 60)
PAPER_SAMPLES, PAPER_QUESTIONS, PAPER_COMPLETIONS = 100_000, 1_517, 24_272
FIGURE_3 = ("figure3_learning_rate", "figure3_batch_size")
EIGHT_GPUS = ClusterFacts(64.0, 8.0, (Resources(64.0, 8.0),))


def nodes(count: int) -> ClusterFacts:
    """Of one GPU and 8 cores each."""
    return ClusterFacts(8.0 * count, float(count), (Resources(8.0, 1.0),) * count)


def write_questions(directory: Path, count: int) -> Path:
    path = directory / f"questions-{count}.jsonl"
    lines = (json.dumps({"question": f"What is {n}+1?", "answer": str(n + 1)}) for n in range(count))
    path.write_text("\n".join(lines))
    return path


def figure_3(directory: Path) -> tuple[list[PreparedSweep], Speeds]:
    """Both sweeps, and speeds at which one sample of each question stands for 16."""
    stand_ins = (
        "trial.model.path=embedded",
        "trial.data.source={kind: arithmetic, samples: 2560, seed: 11}",
        "trial.data.samples=2560",
        "trial.data.max_length=160",
        f"trial.evaluation.benchmarks=[{{name: arithmetic_1, path: {write_questions(directory, PAPER_QUESTIONS)}}}]",
        "trial.evaluation.samplings.sampled.samples=1",
        "trial.evaluation.samplings.sampled.max_new_tokens=112",
        "pool.max_model_len=512",
    )
    sweeps = [prepare(load_sweep(SPECS / f"{name}.yaml", stand_ins)) for name in FIGURE_3]
    whole = [replace(sweep, trials=tuple(map(_of_paper, sweep.trials))) for sweep in sweeps]
    return whole, Speeds(SAMPLES_PER_S, COMPLETIONS_PER_S, standing_for=PAPER_COMPLETIONS / PAPER_QUESTIONS)


def _of_paper(trial: PreparedTrial) -> PreparedTrial:
    """With as many steps as on the paper's data."""
    steps = total_steps(trial.trial.spec.train, PAPER_SAMPLES)
    return replace(trial, facts=replace(trial.facts, steps=steps, samples=PAPER_SAMPLES))


def together(sweeps: list[PreparedSweep]) -> PreparedSweep:
    """One sweep of all distinct trials of several."""
    trials = {trial.training_id: trial for sweep in sweeps for trial in sweep.trials}
    return replace(sweeps[0], trials=tuple(trials.values()))


GRID = """\
name: grid
trial:
  model: {path: embedded}
  data:
    source: {kind: arithmetic, samples: 256, seed: 11}
    max_length: 160
  train: {objective: {kind: sft}, learning_rate: 1e-3, batch_size: 256, steps: STEPS}
  evaluation:
    benchmarks: [{name: arithmetic_1, path: QUESTIONS}]
    every: EVERY
    samplings: {sampled: {samples: SAMPLES, max_new_tokens: 112}}
axes:
  AXES
execution: {gpus_per_worker: 1, cpus_per_worker: 4}
pool: {gpus_per_engine: 1, cpus_per_engine: 4, dtype: bfloat16, max_model_len: 512, replicas: ENGINES}
"""


def grid(
    directory: Path,
    trials: int,
    engines: int,
    steps: int = 390,
    questions: int = 128,
    samples: int = 1,
    uneven: bool = False,
) -> tuple[PreparedSweep, Speeds]:
    """Equal trials but for their jitter, of two objectives at many learning rates, evaluated half-way and at the end;
    `uneven` ones train for 1, 2 or 4 times `steps` at most, the longest last in the spec."""
    rates = [float(f"{1e-5 * (1 + index):.3e}") for index in range(trials // (6 if uneven else 2))]
    axes = {"train.steps": [steps // 4, steps // 2, steps]} if uneven else {}
    axes |= {"train.objective.kind": ["sft", "dft"], "train.learning_rate": rates}
    text = GRID.replace("AXES", "\n  ".join(f"{path}: {json.dumps(values)}" for path, values in axes.items()))
    every = 10_000 if uneven else steps // 2
    for name, value in {"STEPS": steps, "EVERY": every, "ENGINES": engines, "SAMPLES": samples}.items():
        text = text.replace(name, str(value))
    path = directory / "grid.yaml"
    path.write_text(text.replace("QUESTIONS", str(write_questions(directory, questions))))
    speeds = Speeds(SAMPLES_PER_S, COMPLETIONS_PER_S, standing_for=5_436 / (questions * samples))
    return prepare(load_sweep(path)), speeds
