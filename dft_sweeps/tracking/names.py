"""The names under which sweeps, trials and measurements stand in MLflow, for its writer and every reader."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

SWEEP_ID_TAG = "dft.sweep_id"
TRAINING_ID_TAG = "dft.training_id"
MEASURES_TAG = "dft.measures"
"""Hash of what a sweep's points mean: benchmarks, samplings, steps, template, graders. On sweeps and their trials."""
EXPERIMENT_TAG = "dft.sweeps"
"""Set on every experiment that holds sweeps, so that a shared server is not searched whole."""
PARENT_TAG = "mlflow.parentRunId"
TRIAL_TAG = "dft.trial."
"""Before a training id, on a sweep's run: that trial's finished run, in this sweep or another of equal measures."""
UNFINISHED = "unfinished"
"""What stands there until there is one."""
TO_PROPOSE_TAG = "dft.to_propose"
"""On the run of a sweep whose search proposes trials: how many are still to be proposed, beside those listed."""
ATTEMPT_TAG = "dft.attempt"
"""On a trial's run: the id under which the writer asked for it, so that asking again finds it."""
RESUMED_AT_TAG = "dft.resumed_at"
"""On the run of an attempt that took up an earlier one: the step it went on from."""
STOPPED_AT_TAG = "dft.stopped_at"
"""On the finished run of a trial that its sweep's scheduler did not train to the end: the rung at which it was stopped.
It is done in that sweep alone."""
DIVERGED_AT_TAG = "dft.diverged_at"
"""On the run of a trial that failed because a loss or gradient was not finite: the step of that batch."""
HANDING_OVER_TAG = "dft.handing_over"
"""On a trial's run: the share of its training in which it stood still for its checkpoints."""
MIXED_PROVENANCE_TAG = "dft.mixed_provenance"
"""On the run of a trial whose attempts ran under different conditions, so that its bits need not repeat: which."""

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
    "peak_memory_gib",
    "reference_kl",
)
"""Logged at every step; `reference_kl` for ASFT alone."""
BOUNDS = ("ci_low", "ci_high", "fixed_low", "fixed_high")
"""Of an accuracy: ``ci`` for new questions, ``fixed`` for other samples on the same questions."""
_PAPER = "paper_"
EVAL_METRICS = (
    *("accuracy", *BOUNDS, "truncated", "no_answer", "ungradable"),
    *(f"{_PAPER}{name}" for name in ("accuracy", *BOUNDS, "ungradable")),
    *("disagreement", "selection_accuracy", "tokens", "samples", "saved"),
)
"""Those without ``paper_`` are of the benchmark's own grader. `disagreement` is the share of completions on which the
two graders differ; `ungradable` and `paper_ungradable` count completions, `tokens` those generated, `samples` those of
a question where sampling was adaptive, which did without the share `saved`; all others are shares. Where questions are
held out for selection, `selection_accuracy` is the accuracy on these, and everything else is of the other questions."""


_OF_SAMPLES = re.compile(r"(pass|majority)_at_\d+")


def train_metric(name: str) -> str:
    """E.g. ``train/nll``."""
    assert name in TRAIN_METRICS, name
    return f"train/{name}"


def probability_bin(index: int) -> str:
    """Share of the targets whose probability lies in bin `index`, e.g. ``probability/bin_07``.

    The bins' edges are the run's param ``evaluation.histogram.edges``, a JSON list.
    """
    return f"probability/bin_{index:02d}"


def sampling_prefixes(samplings: Iterable[str]) -> dict[str, str]:
    """Samplings, in the spec's order, to metric prefixes: ``eval`` for the first, else ``eval_<name>``."""
    return {name: "eval" if index == 0 else f"eval_{name}" for index, name in enumerate(samplings)}


def eval_metric(prefix: str, benchmark: str, name: str, paper: bool = False) -> str:
    """E.g. ``eval/arithmetic_2/accuracy``, ``eval_greedy/average/ci_low``, ``eval/math500/paper_accuracy``.

    The bounds stand beside the accuracy, not below it (``.../accuracy/ci_low``): MLflow's file store keeps
    each metric as a file and could not hold both.

    Args:
        paper: by the published harness's grader and, for accuracies, as it averages them.
    """
    name = f"{_PAPER}{name}" if paper else name
    assert name in EVAL_METRICS or _OF_SAMPLES.fullmatch(name), name
    return f"{prefix}/{benchmark}/{name}"


def of_samples(measure: Literal["pass", "majority"], samples: int) -> str:
    """``pass_at_16``, ``majority_at_16``: measures of all of a question's samples together, by its own grader; logged
    where there are several. MLflow takes no ``@`` in names."""
    return f"{measure}_at_{samples}"


def graders_param(benchmark: str) -> str:
    """Which graders judged a benchmark in a trial: ``name/version`` of each, its own first, with commas between."""
    return f"resolved.graders.{benchmark}"
