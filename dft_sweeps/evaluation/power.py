"""The smallest difference that a benchmark can show, before anything is run. Plain Python: `plan` needs it."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

CORRELATION = 0.5
"""Assumed intra-question correlation: the share of a completion's variance that its question explains."""

LIKENESS = 0.8
"""Assumed correlation between the two trials' difficulties of a question."""


def smallest_difference(
    questions: int,
    samples: int,
    accuracy: float,
    correlation: float = CORRELATION,
    likeness: float = LIKENESS,
    alpha: float = 0.05,
    power: float = 0.8,
    fixed_list: bool = False,
) -> float:
    """Difference of two trials' accuracies that a paired, two-sided test finds with chance `power`, as a share.

    (z[1 - alpha/2] + z[power]) sqrt(variance of a question's difference / questions), as in Miller (2024,
    arXiv 2411.00640). With the defaults and 16 samples: 6.7 points on AIME 2024 (30 questions, accuracy 7%) and 11.0
    on AMC 2023 (40, 38%), the paper's accuracies of Qwen2.5-Math-1.5B under DFT. A correlation from 0.3 to 0.7 and a
    likeness from 0.5 to 0.95 move these to 4.3-11.2 and 7.0-18.5. This is a normal limit: simulated, the sign-flip
    test finds such a difference with chance 76-81% on the three large benchmarks, 73% on AMC and 62-70% on AIME.

    Args:
        fixed_list: for other samples on the same questions instead of new questions.

    Raises:
        ValueError: no questions or samples, or a share outside (0, 1), or a correlation outside [0, 1].
    """
    if questions < 1 or samples < 1:
        raise ValueError(f"power needs at least one question and one sample, got {questions} and {samples}")
    if not all(0 < share < 1 for share in (accuracy, alpha, power)):
        raise ValueError(f"accuracy, alpha and power must lie between 0 and 1, got {accuracy}, {alpha}, {power}")
    if not (0 <= correlation <= 1 and 0 <= likeness <= 1):
        raise ValueError(f"correlations must lie in [0, 1], got {correlation} and {likeness}")
    variance = accuracy * (1 - accuracy)
    difficulty = 0.0 if fixed_list else 2 * correlation * variance * (1 - likeness)
    noise = 2 * (1 - correlation) * variance / samples
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * sqrt((difficulty + noise) / questions)
