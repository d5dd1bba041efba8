"""The names under which sweeps, trials and measurements stand in MLflow, for its writer and every reader."""

from __future__ import annotations

from collections.abc import Iterable

SWEEP_ID_TAG = "dft.sweep_id"
TRAINING_ID_TAG = "dft.training_id"
MEASURES_TAG = "dft.measures"
"""Hash of what a sweep's points mean: benchmarks, samplings, steps, template, graders. On sweeps and their trials."""
EXPERIMENT_TAG = "dft.sweeps"
"""Set on every experiment that holds sweeps, so that a shared server is not searched whole."""
PARENT_TAG = "mlflow.parentRunId"

SPEC_ARTIFACT = "spec.yaml"
TRIALS_ARTIFACT = "trials.json"

AVERAGE = "average"
"""The macro average over a sweep's benchmarks, named like a benchmark."""

TRAIN_METRICS = (
    "objective",
    "nll",
    "mean_probability",
    "entropy",
    "grad_norm",
    "clipped",
    "learning_rate",
    "tokens_per_second",
    "tokens",
    "samples",
)
EVAL_METRICS = ("accuracy", "ci_low", "ci_high", "truncated", "no_answer", "ungradable")


def train_metric(name: str) -> str:
    """E.g. ``train/nll``."""
    assert name in TRAIN_METRICS, name
    return f"train/{name}"


def sampling_prefixes(samplings: Iterable[str]) -> dict[str, str]:
    """Samplings, in the spec's order, to metric prefixes: ``eval`` for the first, else ``eval_<name>``."""
    return {name: "eval" if index == 0 else f"eval_{name}" for index, name in enumerate(samplings)}


def eval_metric(prefix: str, benchmark: str, name: str) -> str:
    """E.g. ``eval/arithmetic_2/accuracy``, ``eval_greedy/average/ci_low``; all of them shares in [0, 1].

    The bounds stand beside the accuracy, not below it (``.../accuracy/ci_low``): MLflow's file store keeps
    each metric as a file and could not hold both.
    """
    assert name in EVAL_METRICS, name
    return f"{prefix}/{benchmark}/{name}"
