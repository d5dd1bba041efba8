"""A made-up sweep of two objectives by several seeds, with verdicts by question, written to a real MLflow store."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import yaml

from dft_sweeps.evaluation.intervals import average, interval_of_counts
from dft_sweeps.evaluation.selection import held_out
from dft_sweeps.spec.expand import trial_name
from dft_sweeps.spec.models import HistogramSpec, SamplingSpec
from dft_sweeps.tracking import names, question_results
from dft_sweeps.tracking.params import flatten
from dft_sweeps.tracking.question_results import QuestionResults
from dft_sweeps.tracking.writer import MetricRow, Tracker
from tests.report.synthetic_sweep import histogram

SIZES = {"amc23": 40, "math500": 120}
SAMPLING = SamplingSpec(samples=4)
STEPS = (0, 10, 20, 30)
SEEDS = (0, 1, 2)
GAINS = {"sft": 0.8, "dft": 1.6}
"""Of the logit of every question's chance, at the last step."""
SEED_AXIS = {"axes": {"train.objective.kind": ["sft", "dft"], "train.seed": list(SEEDS)}}
SEED_VARIANTS = {
    "variants": [
        {"name": f"{kind}-{seed}", "set": {"train.objective.kind": kind, "train.seed": seed}}
        for kind in GAINS
        for seed in SEEDS
    ]
}


def listed(grid: Mapping[str, Any], sweep: str) -> list[dict[str, Any]]:
    """What the coordinator lists of the trials."""
    each = [
        {"variant": variant["name"]} for variant in grid.get("variants", ())
    ] or [{"train.objective.kind": kind, "train.seed": seed} for kind in GAINS for seed in SEEDS]  # fmt: skip
    pairs = [(kind, seed) for kind in GAINS for seed in SEEDS]
    return [
        {"training_id": f"t-{sweep}-{kind}-{seed}", "name": trial_name(axes), "axes": axes}
        for (kind, seed), axes in zip(pairs, each, strict=True)
    ]


@cache
def right(kind: str, seed: int, step: int, benchmark: str) -> tuple[int, ...]:
    """Per question the right ones of 4 samples; the base model's are the same in all trials."""
    difficulty = np.random.default_rng(len(benchmark)).normal(-0.3, 1.5, SIZES[benchmark])
    trained = step / STEPS[-1]
    shift = np.random.default_rng([seed, len(kind) + (kind == "dft")]).normal(0, 0.35)
    chances = 1 / (1 + np.exp(-difficulty - trained * (GAINS[kind] + shift)))
    noise = np.random.default_rng([seed, kind == "dft", step] if step else [99])
    return tuple(map(int, noise.binomial(SAMPLING.samples, chances)))


def tables(kind: str, seed: int, step: int, share: float | None = None) -> list[QuestionResults]:
    found = []
    for benchmark, size in SIZES.items():
        ids = tuple(map(str, range(size)))
        out = held_out(benchmark, ids, share) if share else frozenset()
        found.append(
            QuestionResults(
                sampling="sampled",
                benchmark=benchmark,
                benchmark_digest=f"digest of {benchmark}",
                grader="strict/1",
                evaluation_id=f"e-{kind}-{seed}-{step}" if step else "e-0",
                grade_id="g-1",
                own=True,
                samples=SAMPLING.samples,
                questions=ids,
                right=right(kind, seed, step, benchmark),
                settings=SAMPLING.model_dump(mode="json"),
                held_out=tuple(id_ for id_ in ids if id_ in out),
            )
        )
    return found


def write_seeds(
    tracker: Tracker,
    grid: Mapping[str, Any] = SEED_AXIS,
    name: str = "seeds",
    share: float | None = None,
    without_verdicts: Collection[int] = (),
    short: Mapping[int, int] | None = None,
) -> str:
    """Returns the parent's run id.

    Args:
        without_verdicts: seeds of which no verdicts by question are recorded.
        short: seed to the last step that its trials have reached; they are still running.
    """
    short = short or {}
    evaluation: dict[str, Any] = {"benchmarks": list(SIZES), "samplings": {"sampled": {"samples": 4}}}
    if share is not None:
        evaluation["selection_share"] = share
    spec = {"name": name, "trial": {"evaluation": evaluation}, **grid}
    trials = listed(grid, name)
    parent = tracker.open_sweep(name, f"s-{name}", yaml.safe_dump(spec, sort_keys=False), trials, f"m-{name}")
    pairs = [(kind, seed) for kind in GAINS for seed in SEEDS]
    for (kind, seed), trial in zip(pairs, trials, strict=True):
        fields = {"resolved": {"graders": dict.fromkeys(SIZES, "strict/1")}}
        fields["evaluation"] = {"histogram": {"samples": 32, "edges": HistogramSpec().edges}}  # type: ignore[dict-item]
        run = tracker.open_trial(parent, trial["training_id"], trial["name"], flatten(fields), {})
        steps = [step for step in STEPS if step <= short.get(seed, STEPS[-1])]
        for step in steps:
            tracker.log(run, _metrics(tables(kind, seed, step, share), step))
            tracker.log(run, _histogram(kind, seed, step))
            if seed not in without_verdicts:
                write_tables(tracker, run, step, tables(kind, seed, step, share))
        tracker.log(run, _training(kind, seed, steps[-1]))
        if seed not in short:
            tracker.finish(run, "FINISHED")
    tracker.finish(parent, "FINISHED")
    return parent


def write_tables(tracker: Tracker, run: str, step: int, found: Sequence[QuestionResults]) -> None:
    text = json.dumps([vars(table) for table in found])
    tracker.log_text(run, text, f"{question_results.FOLDER}/{question_results.artifact_name(step)}")


def _metrics(found: Sequence[QuestionResults], step: int) -> list[MetricRow]:
    values: dict[str, float] = {}
    kept = [table.without(table.held_out) for table in found]
    for kind, bounds in (("new_questions", names.BOUNDS[:2]), ("fixed_list", names.BOUNDS[2:])):
        each = [interval_of_counts(*table.counts, kind=kind) for table in kept]  # type: ignore[arg-type]
        for benchmark, found_ in zip((*SIZES, names.AVERAGE), (*each, average(each)), strict=True):
            numbers = zip(("accuracy", *bounds), (found_.mean, found_.low, found_.high), strict=True)
            values |= {names.eval_metric("eval", benchmark, key): number for key, number in numbers}
    if found[0].held_out:
        chosen = [table.without(set(table.questions) - set(table.held_out)) for table in found]
        of = [float(np.mean(table.right)) / SAMPLING.samples for table in chosen]
        for benchmark, number in zip((*SIZES, names.AVERAGE), (*of, float(np.mean(of))), strict=True):
            values[names.eval_metric("eval", benchmark, "selection_accuracy")] = number
    return [MetricRow(key, step, value, step) for key, value in values.items()]


def _training(kind: str, seed: int, steps: int) -> list[MetricRow]:
    noise = np.random.default_rng([seed, kind == "dft", 7])
    rows = []
    for step in range(1, steps + 1):
        nll = (0.14 if kind == "dft" else 0.07) + 0.03 * seed + 0.25 * math.exp(-step / 8) + noise.normal(0, 0.01)
        values = {"nll": nll, "objective": nll if kind == "sft" else nll * math.exp(-nll) * 0.5}
        rows += [MetricRow(names.train_metric(key), step, value, step) for key, value in values.items()]
    return rows


def _histogram(kind: str, seed: int, step: int) -> list[MetricRow]:
    shares = histogram(kind, 3e-4 * (1 + 1e-6 * seed if step else 1), step, HistogramSpec().edges, targets=1500)
    return [MetricRow(names.probability_bin(index), step, share, step) for index, share in enumerate(shares)]
