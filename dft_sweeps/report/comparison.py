"""Sides compared question by question: differences, intervals, and p-values corrected over all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import nan
from statistics import fmean
from typing import Literal

import numpy as np

from dft_sweeps.evaluation.paired import INTERVAL, Rows, compare_average, holm, max_t
from dft_sweeps.evaluation.paired_seeds import SeedCounts, compare_seeds
from dft_sweeps.report.sides import Run, Side, choose_samplings, disagreement
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking.names import AVERAGE
from dft_sweeps.tracking.question_results import QuestionResults

Correction = Literal["holm", "max-t"]
TWO_LEVELS = "questions and seeds"

_Seeds = tuple[QuestionResults, ...]
"""One benchmark's tables, of each training seed of a side."""


@dataclass(frozen=True)
class Difference:
    """Accuracy of A minus that of B on one benchmark or the average; shares in [-1, 1]."""

    a: str
    b: str
    step_a: int | None
    step_b: int | None
    """None for a checkpoint that was evaluated on its own."""
    seeds_a: int
    seeds_b: int
    """Training seeds that accuracies are means over."""
    sampling: str
    benchmark: str
    grader: str
    questions: int
    """Without those held out for selection."""
    accuracy_a: float
    accuracy_b: float
    seed_spread_a: float | None
    seed_spread_b: float | None
    """Standard deviation of the accuracy over seeds; None where either side has one seed."""
    difference: float
    ci_low: float
    ci_high: float
    """95%, for new questions; with several seeds on both sides for other seeds too."""
    fixed_low: float
    fixed_high: float
    """95%, for other samples on the same questions; with several seeds on both sides for other seeds too."""
    p_value: float
    p_test: str
    """What `p_value` is of: `paired.SIGN_FLIP`; `INTERVAL`, where the sides have different numbers of samples of a
    question, and `TWO_LEVELS`, with several seeds on both sides, which invert the interval for new questions."""
    p_these_seeds: float | None
    """With several seeds on both sides the test over questions on means over them, which knows nothing of others."""
    p_these_seeds_test: str | None
    """`SIGN_FLIP` or `INTERVAL`."""
    p_corrected: float
    """`p_value`, corrected for all comparisons made together."""
    correction: Correction


@dataclass(frozen=True)
class Comparisons:
    differences: list[Difference]
    not_compared: list[str]
    """What was left out, in words."""
    notes: list[str]
    """What a reader must know besides."""


@dataclass
class _Words:
    not_compared: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare_all(
    pairs: Sequence[tuple[Side, Side]], sampling: str | None = None, correction: Correction = "holm"
) -> Comparisons:
    """Differences of every pair on every benchmark that both sides have, and on their average. p-values are corrected
    over all of them together.

    Raises:
        SpecError: nothing that both sides of any pair have; a pair sampled differently; max-T of several seeds or of
            unequal numbers of samples.
    """
    words = _Words()
    found: list[Difference] = []
    vectors: list[dict[tuple[str, str], float]] = []
    for a, b in pairs:
        words.notes += [*a.notes, *b.notes]
        x, y = choose_samplings(a, b, sampling)
        shown = x if x == y else f"{x} and {y}"
        both = [_without_held_out(one, other, words) for one, other in _in_common(a, b, a.samplings[x], b.samplings[y],
                                                                                 words)]  # fmt: skip
        for tables in [*([each] for each in both), *([both] if len(both) > 1 else [])]:
            found.append(_difference(a, b, shown, tables, correction))
            vectors.append(_by_question(tables))
        if both and 1 in {len(both[0][0]), len(both[0][1])} and len(both[0][0]) != len(both[0][1]):
            alone = a if len(both[0][0]) == 1 else b
            words.notes.append(f"{alone.name} has one seed, so that no interval of {a.name} minus {b.name} holds seeds")
    if not found:
        raise SpecError("; ".join(["there is nothing to compare", *dict.fromkeys(words.not_compared)]))
    corrected = _corrected(found, vectors, correction)
    differences = [replace(each, p_corrected=p) for each, p in zip(found, corrected, strict=True)]
    return Comparisons(differences, list(dict.fromkeys(words.not_compared)), list(dict.fromkeys(words.notes)))


def _corrected(
    found: Sequence[Difference], vectors: Sequence[dict[tuple[str, str], float]], correction: Correction
) -> list[float]:
    if correction == "holm":
        return holm([each.p_value for each in found])
    if any(each.p_test == TWO_LEVELS for each in found):
        raise SpecError("max-t flips the signs of questions, which know nothing of other seeds; choose holm",
                        "--correction")  # fmt: skip
    if any(each.p_test == INTERVAL for each in found):
        raise SpecError("max-t flips the signs of questions, which is no test where the sides have different numbers "
                        "of samples; choose holm", "--correction")  # fmt: skip
    rows = {key: index for index, key in enumerate(dict.fromkeys(key for vector in vectors for key in vector))}
    matrix = np.zeros((len(rows), len(vectors)))
    for column, vector in enumerate(vectors):
        matrix[[rows[key] for key in vector], column] = list(vector.values())
    # Exact p-values may lie above those drawn at random.
    return [max(p, each.p_value) for p, each in zip(max_t(matrix), found, strict=True)]


def _by_question(tables: Sequence[tuple[_Seeds, _Seeds]]) -> dict[tuple[str, str], float]:
    """Each question's part of the difference, by benchmark digest and id."""
    parts = {}
    for a, b in tables:
        shares = [np.mean([right / samples for right, samples in (t.counts for t in side)], axis=0) for side in (a, b)]
        weighted = (shares[0] - shares[1]) / len(shares[0])
        parts |= {(a[0].benchmark_digest, id_): float(d) for id_, d in zip(a[0].questions, weighted, strict=True)}
    return parts


def _in_common(
    a: Side, b: Side, runs_a: Sequence[Run], runs_b: Sequence[Run], words: _Words
) -> list[tuple[_Seeds, _Seeds]]:
    """Per benchmark the tables of both sides, of the same questions by the same grader."""
    of_a, of_b = _by_content(runs_a), _by_content(runs_b)
    names_a, names_b = (list(dict.fromkeys(name for name, _, _ in of)) for of in (of_a, of_b))
    words.not_compared += [f"{name} was measured of {b.name} alone" for name in names_b if name not in names_a]
    both = []
    for name in names_a:
        keys = [key for key in of_a if key[0] == name and key in of_b]
        if keys:
            best = max(keys, key=lambda key: (len(of_a[key][0].questions), _version(key[2])))
            if len(keys) > 1:
                words.notes.append(f"{name} was graded several times alike; that with most questions by the newest "
                                   f"grader ({best[2]}) is compared")  # fmt: skip
            _check_sampling(a, b, of_a[best], of_b[best], words)
            both.append((of_a[best], of_b[best]))
        else:
            words.not_compared.append(_why_not(name, a, b, list(of_a), list(of_b)))
    return both


def _by_content(runs: Sequence[Run]) -> dict[tuple[str, str, str], _Seeds]:
    """What all seeds have, by benchmark, its digest and grader."""
    each = [{(t.benchmark, t.benchmark_digest, t.grader): t for t in run} for run in runs]
    return {key: tuple(run[key] for run in each) for key in each[0] if all(key in run for run in each)}


def _why_not(name: str, a: Side, b: Side, of_a: list[tuple[str, str, str]], of_b: list[tuple[str, str, str]]) -> str:
    here, there = ([key[1:] for key in of if key[0] == name] for of in (of_a, of_b))
    if not there:
        return f"{name} was measured of {a.name} alone"
    if not {digest for digest, _ in here} & {digest for digest, _ in there}:
        return f"{name} has other questions in {a.name} than in {b.name}"
    graders = [" and ".join(dict.fromkeys(grader for _, grader in keys)) for keys in (here, there)]
    return f"{name} was judged by {graders[0]} in {a.name}, {graders[1]} in {b.name}"


def _version(grader: str) -> tuple[int, str]:
    version = grader.rpartition("/")[2]
    return (int(version), "") if version.isdigit() else (0, version)


def _check_sampling(a: Side, b: Side, of_a: _Seeds, of_b: _Seeds, words: _Words) -> None:
    for one in of_a:
        for other in of_b:
            if differently := disagreement(one.settings, other.settings):
                raise SpecError(f"{a.name} and {b.name} were sampled differently: {differently}", "--sampling")
    contexts = [{t.settings.get("context") for t in of if t.settings} for of in (of_a, of_b)]
    if contexts[0] != contexts[1] and all(contexts):
        words.notes.append(f"completions of {a.name} and {b.name} were cut off at different lengths of context")
    for side, of in ((a, of_a), (b, of_b)):
        if any(table.settings is None for table in of):
            words.notes.append(f"how {side.name} was sampled is not recorded, so that it is not checked to be alike")


def _without_held_out(a: _Seeds, b: _Seeds, words: _Words) -> tuple[_Seeds, _Seeds]:
    out = {id_ for table in (*a, *b) for id_ in table.held_out}
    if not out:
        return a, b
    words.not_compared.append(f"{len(out)} of the {len(a[0].questions)} questions of {a[0].benchmark}, which are held "
                              "out for selection")  # fmt: skip
    return tuple(table.without(out) for table in a), tuple(table.without(out) for table in b)


def _difference(
    a: Side, b: Side, sampling: str, tables: Sequence[tuple[_Seeds, _Seeds]], correction: Correction
) -> Difference:
    of_a, of_b = ([each[side] for each in tables] for side in (0, 1))
    two_levels = min(len(of_a[0]), len(of_b[0])) > 1
    level = max(table.level for side in (of_a, of_b) for seeds in side for table in seeds)
    if two_levels:
        counts = [(_seed_counts(one), _seed_counts(other)) for one, other in tables]
        new, fixed = (compare_seeds(counts, level, kind) for kind in ("new_questions", "fixed_list"))  # type: ignore[arg-type]
        p_test = TWO_LEVELS
        values = {"seed_spread_a": new.spread_a, "seed_spread_b": new.spread_b,
                  "p_these_seeds": new.p_these_seeds, "p_these_seeds_test": new.p_these_seeds_test}  # fmt: skip
    else:
        rows = [(_rows(one), _rows(other)) for one, other in tables]
        new, fixed = (compare_average(rows, level, kind) for kind in ("new_questions", "fixed_list"))  # type: ignore[arg-type]
        p_test = new.p_test
        values = dict.fromkeys(("seed_spread_a", "seed_spread_b", "p_these_seeds", "p_these_seeds_test"))
    return Difference(
        a=a.name,
        b=b.name,
        step_a=a.step,
        step_b=b.step,
        seeds_a=len(of_a[0]),
        seeds_b=len(of_b[0]),
        sampling=sampling,
        benchmark=AVERAGE if len(tables) > 1 else of_a[0][0].benchmark,
        grader=" and ".join(dict.fromkeys(seeds[0].grader for seeds in of_a)),
        questions=sum(len(seeds[0].questions) for seeds in of_a),
        accuracy_a=_accuracy(of_a),
        accuracy_b=_accuracy(of_b),
        difference=new.difference,
        ci_low=new.low,
        ci_high=new.high,
        fixed_low=fixed.low,
        fixed_high=fixed.high,
        p_value=new.p_value,
        p_test=p_test,
        p_corrected=nan,
        correction=correction,
        **values,
    )


def _seed_counts(seeds: _Seeds) -> SeedCounts:
    right, samples = zip(*(table.counts for table in seeds), strict=True)
    return np.stack(right), np.stack(samples)


def _rows(seeds: _Seeds) -> Rows:
    """Per question the verdicts of all seeds."""
    return [[verdict for row in rows for verdict in row] for rows in zip(*(t.correct for t in seeds), strict=True)]


def _accuracy(benchmarks: Sequence[_Seeds]) -> float:
    """Mean over benchmarks, seeds and questions."""
    return fmean(fmean(fmean(table.right) / table.samples for table in seeds) for seeds in benchmarks)
