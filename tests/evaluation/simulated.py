"""Simulated evaluations: shapes of the distribution of questions' difficulties, all with a given mean accuracy
and intra-question correlation (variance of difficulties = correlation x accuracy x (1 - accuracy))."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import betabinom, binom

Array = NDArray[np.float64]

SHAPES = ("beta", "hopeless", "safe", "settled", "logit")
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(201)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def difficulties(
    rng: np.random.Generator, shape: str, correlation: float, accuracy: float, size: int | tuple[int, ...]
) -> Array:
    """Chances of a right sample, one per question."""
    if shape == "beta":
        strength = (1 - correlation) / correlation
        return rng.beta(accuracy * strength, (1 - accuracy) * strength, size)
    values, shares = _points(shape, correlation, accuracy)
    return np.asarray(rng.choice(values, size, p=shares))


def right_counts(shape: str, correlation: float, accuracy: float, samples: int) -> Array:
    """Distribution of the number of right samples of a question, [samples + 1]."""
    counts = np.arange(samples + 1)
    if shape == "beta":
        strength = (1 - correlation) / correlation
        return np.asarray(betabinom.pmf(counts, samples, accuracy * strength, (1 - accuracy) * strength))
    values, shares = _points(shape, correlation, accuracy)
    return np.asarray(shares @ binom.pmf(counts, samples, values[:, None]))


def moments(
    rng: np.random.Generator, shape: str, questions: int, samples: int, correlation: float, accuracy: float, runs: int
) -> tuple[Array, Array]:
    """Mean and unbiased variance of the questions' accuracies in each of `runs` evaluations."""
    chances = right_counts(shape, correlation, accuracy, samples)
    of_questions = rng.multinomial(questions, chances / chances.sum(), runs)
    shares = np.arange(samples + 1) / samples
    mean = of_questions @ shares / questions
    return mean, (of_questions @ shares**2 - questions * mean**2) / (questions - 1)


def _points(shape: str, correlation: float, accuracy: float) -> tuple[Array, Array]:
    """Difficulties and their shares."""
    if shape == "logit":
        centre, spread = _logit_normal(correlation, accuracy)
        return expit(centre + spread * _NODES), _WEIGHTS
    if shape == "hopeless":
        chance = accuracy + correlation * (1 - accuracy)
        return np.array([0.0, chance]), np.array([1 - accuracy / chance, accuracy / chance])
    if shape == "safe":
        values, shares = _points("hopeless", correlation, 1 - accuracy)
        return 1 - values, shares
    assert shape == "settled"
    shares = np.array([correlation * (1 - accuracy), 1 - correlation, correlation * accuracy])
    return np.array([0.0, accuracy, 1.0]), shares


@cache
def _logit_normal(correlation: float, accuracy: float) -> tuple[float, float]:
    """Mean and standard deviation of the logits."""

    def centre(spread: float) -> float:
        return float(brentq(lambda at: _WEIGHTS @ expit(at + spread * _NODES) - accuracy, -200, 200))

    def excess(spread: float) -> float:
        variance = _WEIGHTS @ (expit(centre(spread) + spread * _NODES) - accuracy) ** 2
        return float(variance - correlation * accuracy * (1 - accuracy))

    spread = float(brentq(excess, 0.05, 60))
    return centre(spread), spread
