"""A made-up quickstart sweep, written to a real MLflow store: shapes as measured, values invented."""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Sequence
from typing import Any

import yaml

from dft_sweeps.spec.expand import trial_name
from dft_sweeps.tracking import names
from dft_sweeps.tracking.params import flatten
from dft_sweeps.tracking.writer import MetricRow, Tracker

BENCHMARKS = ("arithmetic_2", "arithmetic_3")
GRADERS = ("exact/1", "strict/1, paper/1")
SPEC: dict[str, Any] = {
    "name": "quickstart",
    "trial": {
        "evaluation": {
            "benchmarks": ["arithmetic_2", {"name": "arithmetic_3", "limit": 100}],
            "samplings": {"sampled": {"samples": 4}, "greedy": {"temperature": 0.0}},
        }
    },
}
_FINAL = {("dft", 3e-4): 0.97, ("dft", 1e-3): 0.96, ("sft", 3e-4): 0.86, ("sft", 1e-3): 0.79}


def trials() -> list[dict[str, Any]]:
    grid = [("wrong-steps", kind, rate) for kind in ("sft", "dft") for rate in (3e-4, 1e-3)]
    grid += [("clean", kind, 3e-4) for kind in ("sft", "dft")]
    return [
        {
            "training_id": f"t-{variant}-{kind}-{rate}",
            "name": trial_name(axes),
            "axes": axes,
        }
        for variant, kind, rate in grid
        for axes in [{"variant": variant, "train.objective.kind": kind, "train.learning_rate": rate}]
    ]


def write_sweep(
    tracker: Tracker,
    name: str = "quickstart",
    sweep_id: str = "s-0123456789abcdef",
    steps: int = 60,
    every: int = 10,
    edges: Sequence[float] = (),
) -> str:
    """Every trial but the last is finished. Returns the parent's run id.

    With `edges`, histograms of the targets' probabilities are logged at the evaluated steps.

    Ungradable are 2 completions of the base model, and 5 of each of the two trials at 1e-3 at the first step after it.
    """
    parent = tracker.open_sweep(name, sweep_id, yaml.safe_dump(SPEC, sort_keys=False), trials(), "m")
    for trial in trials():
        axes = trial["axes"]
        variant, kind, rate = axes["variant"], axes["train.objective.kind"], axes["train.learning_rate"]
        fields = {
            "train": {"objective": {"kind": kind}, "learning_rate": rate},
            "evaluation": {"histogram": {"samples": 32} | ({"edges": edges} if edges else {})},
            "resolved": {"graders": dict(zip(BENCHMARKS, GRADERS, strict=True))},
            "data": {"source": {"kind": "arithmetic", "wrong_steps": 0.05 if variant == "wrong-steps" else 0.0}},
        }
        if trial != trials()[-1]:
            fields["resolved"]["steps"] = steps  # absent from trials that an earlier version recorded
        run = tracker.open_trial(parent, trial["training_id"], trial["name"], flatten(fields), {})
        tracker.log(run, [*_training(kind, rate, steps), *_evaluation(variant, kind, rate, steps, every)])
        tracker.log(run, [row for step in range(0, steps + 1, every) for row in _histogram(kind, rate, step, edges)])
        if trial != trials()[-1]:
            tracker.finish(run, "FINISHED")
    tracker.finish(parent, "FINISHED")
    return parent


def _training(kind: str, rate: float, steps: int) -> list[MetricRow]:
    noise = random.Random(f"{kind}{rate}")
    rows = []
    for step in range(1, steps + 1):
        nll = (0.14 if kind == "dft" else 0.07) + 0.25 * math.exp(-step / (8 if rate > 5e-4 else 14))
        nll *= math.exp(noise.gauss(0, 0.12))
        objective = nll if kind == "sft" else nll * math.exp(-nll) * 0.5
        values = {"nll": nll, "objective": objective, "learning_rate": rate, "tokens_per_second": 1100.0}
        rows += [MetricRow(names.train_metric(key), step, value, 1_000 * step) for key, value in values.items()]
    return rows


def _evaluation(variant: str, kind: str, rate: float, steps: int, every: int) -> list[MetricRow]:
    noise = random.Random(f"{variant}{kind}{rate}")
    rows = []
    for prefix, lift in (("eval", 0.0), ("eval_greedy", 0.4)):
        base = {"arithmetic_2": 0.71, "arithmetic_3": 0.56}
        base = {name: value + lift * (1 - value) for name, value in base.items()}
        for step in range(0, steps + 1, every):
            found = {}
            for name in BENCHMARKS:
                final = 0.985 if variant == "clean" else _FINAL[kind, rate] + lift * (1 - _FINAL[kind, rate])
                final -= 0.03 if name == "arithmetic_3" else 0.0
                grown = 0.0 if step == 0 else 1 - math.exp(-step / 14)
                value = base[name] + (final - base[name]) * grown + (noise.gauss(0, 0.006) if step else 0.0)
                found[name] = min(value, 1.0)
            ungradable = 2 if step == 0 else 5 if step == every and rate == 1e-3 else 0
            if prefix == "eval":
                key = names.eval_metric(prefix, "arithmetic_2", "ungradable")
                rows.append(MetricRow(key, step, ungradable, 1_000 * step + 7))
            found[names.AVERAGE] = sum(found.values()) / 2
            for name, value in found.items():
                half = 1.96 * math.sqrt(value * (1 - value) / (400 if name != names.AVERAGE else 800)) + 0.002
                low, high = max(0.0, value - half), min(1.0, value + half)
                for key, number in (("accuracy", value), ("ci_low", low), ("ci_high", high)):
                    rows.append(MetricRow(names.eval_metric(prefix, name, key), step, number, 1_000 * step + 7))
            rows += _of_paper(prefix, step, found["arithmetic_3"])
    return rows


def _of_paper(prefix: str, step: int, accuracy: float) -> list[MetricRow]:
    """The published harness's verdicts, which exist on one of the benchmarks: a point less than the strict ones."""
    value = accuracy - 0.01
    numbers = {"accuracy": value, "ci_low": value - 0.05, "ci_high": value + 0.04}
    numbers |= {"fixed_low": value - 0.02, "fixed_high": value + 0.01}
    return [
        MetricRow(names.eval_metric(prefix, "arithmetic_3", key, paper=True), step, number, 1_000 * step + 7)
        for key, number in numbers.items()
    ]


def _histogram(kind: str, rate: float, step: int, edges: Sequence[float]) -> list[MetricRow]:
    shares = histogram(kind, rate, step, edges) if edges else []
    return [MetricRow(names.probability_bin(index), step, share, 1_000 * step) for index, share in enumerate(shares)]


def histogram(kind: str, rate: float, step: int, edges: Sequence[float], targets: int = 6_000) -> list[float]:
    """Shares of `targets` tokens, dense at both ends of [0, 1]: SFT thins the low end, DFT all but the ends."""
    trained = (1 - math.exp(-step / 14)) * (0.8 if rate < 5e-4 else 1.0)
    goal = {"sft": (0.08, 0.6, 0.05), "dft": (0.18, 0.15, 0.02)}[kind]
    weight, low, high = (base + trained * (end - base) for base, end in zip((0.15, 0.5, 0.08), goal, strict=True))
    bins = len(edges) - 1
    below = [weight * edge**low + (1 - weight) * (1 - (1 - edge) ** high) for edge in edges]
    noise = random.Random(f"{kind}{rate}{step}" if step else "base")
    drawn = [bisect.bisect(below, noise.random(), hi=bins) - 1 for _ in range(targets)]
    return [drawn.count(index) / targets for index in range(bins)]
