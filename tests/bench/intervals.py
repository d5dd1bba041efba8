"""Which interval covers, and how wide it is: `python -m tests.bench.intervals [runs]` (10,000 take two minutes).

Prints three tables: candidates for new questions over all cells of the coverage test, the power of the paired
test at the differences that `smallest_difference` gives, and the share of 16 samples that adaptive sampling takes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from scipy.special import betaincinv, ndtri, stdtrit

from dft_sweeps.evaluation.adaptive import look_level, looks
from dft_sweeps.evaluation.intervals import binomial_bounds, bounds, size_for_new_questions
from dft_sweeps.evaluation.paired import difference_bounds, sign_flip
from dft_sweeps.evaluation.power import smallest_difference
from tests.evaluation.simulated import Array, difficulties, moments
from tests.evaluation.test_intervals import CELLS
from tests.evaluation.test_paired import paired_counts

Method = Callable[[Array, Array, int, int], tuple[Array, Array]]

# The paper's benchmarks: questions and Qwen2.5-Math-1.5B's accuracy under DFT.
BENCHMARKS = {
    "Math500": (500, 0.65),
    "Minerva": (272, 0.21),
    "Olympiad": (675, 0.27),
    "AIME 2024": (30, 0.07),
    "AMC 2023": (40, 0.38),
}


def cluster_t(mean: Array, variance: Array, questions: int, samples: int) -> tuple[Array, Array]:
    half = stdtrit(questions - 1, 0.975) * np.sqrt(variance / questions)
    return mean - half, mean + half


def wilson(mean: Array, variance: Array, questions: int, samples: int) -> tuple[Array, Array]:
    size, z = estimated_size(mean, variance, questions, samples), ndtri(0.975)
    centre, spread = mean + z**2 / 2 / size, z * np.sqrt(mean * (1 - mean) / size + z**2 / 4 / size**2)
    return (centre - spread) / (1 + z**2 / size), (centre + spread) / (1 + z**2 / size)


def jeffreys(mean: Array, variance: Array, questions: int, samples: int) -> tuple[Array, Array]:
    size = estimated_size(mean, variance, questions, samples)
    return beta_quantiles(mean * size + 0.5, (1 - mean) * size + 0.5)


def clopper_pearson(mean: Array, variance: Array, questions: int, samples: int) -> tuple[Array, Array]:
    right, wrong = mean * questions, (1 - mean) * questions
    low, _ = beta_quantiles(np.maximum(right, 1e-9), wrong + 1)
    _, high = beta_quantiles(right + 1, np.maximum(wrong, 1e-9))
    return np.where(right > 1e-9, low, 0.0), np.where(wrong > 1e-9, high, 1.0)


def chosen(mean: Array, variance: Array, questions: int, samples: int) -> tuple[Array, Array]:
    return binomial_bounds(mean, size_for_new_questions(mean, variance, questions, samples), 0.95)


def beta_quantiles(right: Array, wrong: Array) -> tuple[Array, Array]:
    return betaincinv(right, wrong, 0.025), betaincinv(right, wrong, 0.975)


def estimated_size(mean: Array, variance: Array, questions: int, samples: int) -> Array:
    independent = mean * (1 - mean) / samples
    return questions * samples / np.clip(variance / np.where(independent > 0, independent, 1.0), 1, samples)


METHODS: dict[str, Method] = {
    "cluster t": cluster_t,
    "Wilson, effective size": wilson,
    "Jeffreys, effective size": jeffreys,
    "Clopper-Pearson, questions": clopper_pearson,
    "chosen": chosen,
}


def coverage(runs: int) -> None:
    """Least coverage anywhere, range where questions are many and accuracies moderate, mean widths in points."""
    rng = np.random.default_rng(1)
    covered, widths = {name: [] for name in METHODS}, {name: [] for name in METHODS}
    for shape, questions, samples, correlation, accuracy in CELLS:
        mean, variance = moments(rng, shape, questions, samples, correlation, accuracy, runs)
        for name, method in METHODS.items():
            low, high = method(mean, variance, questions, samples)
            covered[name].append(np.mean((low <= accuracy) & (accuracy <= high)))
            widths[name].append(100 * np.mean(high - low))
    few = np.array([cell[1] <= 40 for cell in CELLS])
    moderate = np.array([cell[1] >= 272 and cell[4] >= 0.2 for cell in CELLS])
    print(
        "| method | least | cells < 93% | moderate | width, 30 and 40 | width, 272 and 500 |\n|---|---|---|---|---|---|"
    )
    for name in METHODS:
        cover, width = 100 * np.array(covered[name]), np.array(widths[name])
        print(
            f"| {name} | {cover.min():.1f} | {(cover < 93).sum()} of {len(cover)} | {cover[moderate].min():.1f}-"
            f"{cover[moderate].max():.1f} | {width[few].mean():.2f} | {width[~few].mean():.2f} |"
        )


def power(runs: int) -> None:
    """How often the sign-flip test finds the smallest difference, nominally 80%, above and around the accuracy."""
    rng = np.random.default_rng(2)
    print("\n| benchmark | smallest difference | found, around | found, above |\n|---|---|---|---|")
    for name, (questions, accuracy) in BENCHMARKS.items():
        difference = smallest_difference(questions, 16, accuracy)
        found = []
        for low in (accuracy - difference / 2, accuracy):
            a, b = paired_counts(rng, questions, 16, (low + difference, low), runs)
            found.append(np.mean([sign_flip(row, 16) <= 0.05 for row in (a - b) / 16]))
        print(f"| {name} | {100 * difference:.1f} | {100 * found[0]:.0f}% | {100 * found[1]:.0f}% |")


def adaptive(runs: int) -> None:
    """Mean share of 16 samples until the fixed-list half-width is 1 or 2 points, and until a trial that is 10 points
    below (on AIME at 1%) is known to be below. Each row is of one list of questions."""
    rng = np.random.default_rng(3)
    print("\n| benchmark | correlation | 1 point | 2 points | verdict at 10 points (reached) |\n|---|---|---|---|---|")
    for name, (questions, accuracy) in BENCHMARKS.items():
        for correlation in (0.5, 0.72):
            a, b = (
                difficulties(rng, "beta", correlation, mean, questions)
                for mean in (accuracy, max(0.01, accuracy - 0.1))
            )
            one, two, verdict, reached = stopping(rng, a, b, runs)
            print(f"| {name} | {correlation} | {one:.2f} | {two:.2f} | {verdict:.2f} ({100 * reached:.0f}%) |")


def stopping(rng: np.random.Generator, a: Array, b: Array, runs: int) -> tuple[float, float, float, float]:
    """Mean shares of 16 samples until half-widths of 1 and 2 points and a verdict, and how often there is one."""
    level, taken = look_level(looks(16)), 0
    right_a, right_b = np.zeros((runs, len(a))), np.zeros((runs, len(b)))
    used = np.full((3, runs), 16.0)
    for samples in looks(16):
        right_a = right_a + rng.binomial(samples - taken, a, right_a.shape)
        right_b = right_b + rng.binomial(samples - taken, b, right_b.shape)
        taken, sizes = samples, np.full(len(a), float(samples))
        mean, low, high = bounds(right_a, sizes, level, "fixed_list")
        half = np.maximum(mean - low, high - mean)
        _, below, above = difference_bounds(right_a, sizes, right_b, sizes, level, "fixed_list")
        apart = (below > 0) | (above < 0)
        for row, done in zip(used, (half <= 0.01, half <= 0.02, apart), strict=True):
            row[done] = np.minimum(row[done], samples)
    reached = np.mean((used[2] < 16) | apart)
    return (*(float(row.mean() / 16) for row in used), float(reached))  # type: ignore[return-value]


if __name__ == "__main__":
    asked = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    coverage(asked)
    power(min(asked, 2000))
    adaptive(min(asked, 300))
