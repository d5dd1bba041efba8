"""Accuracy as the published harness reports it, for comparisons with published numbers only."""

from __future__ import annotations

from collections.abc import Sequence


def harness_accuracy(questions: Sequence[Sequence[bool | None]]) -> float:
    """Per cent right: the mean over samples (its "runs") of accuracies rounded to one decimal.

    `questions` holds one row of verdicts of the `paper` grader per question; ungradable ones count as wrong, as in
    the harness. The rounding moves a benchmark of 30 questions by up to 0.05.

    Raises:
        ValueError: no questions or samples, or rows of different lengths.
    """
    if not questions or not questions[0] or len({len(row) for row in questions}) > 1:
        raise ValueError("every question needs as many samples as the others, at least one")
    runs = zip(*questions, strict=True)
    # numpy.round, which the harness uses, also scales, rounds half to even and scales back.
    accuracies = [round(sum(verdict is True for verdict in run) / len(questions) * 1000) / 10 for run in runs]
    return sum(accuracies) / len(accuracies)
