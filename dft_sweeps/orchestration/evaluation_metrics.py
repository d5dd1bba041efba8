"""From the verdicts on one checkpoint to the numbers that MLflow keeps of them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from dft_sweeps.evaluation.harness_accuracy import harness_accuracy
from dft_sweeps.evaluation.intervals import Interval
from dft_sweeps.evaluation.results import BenchmarkResult, Judgements, macro_average
from dft_sweeps.evaluation.selection import held_out
from dft_sweeps.tracking import names


def own_result(judged: Judgements) -> BenchmarkResult:
    """By the benchmark's own grader."""
    return next(iter(judged.values()))


def evaluation_metrics(
    prefix: str, results: Sequence[Judgements], selection_share: float | None = None
) -> dict[str, float]:
    """Metrics of one sampling on all benchmarks, and their averages; the published harness's average where it judged
    every benchmark. With a `selection_share`, of the questions that are not held out for selection, and the accuracies
    on those that are."""
    metrics: dict[str, float] = {}
    if selection_share is not None:
        parts = [_split(judged, selection_share) for judged in results]
        metrics, results = _selection_metrics(prefix, [held for held, _ in parts]), [rest for _, rest in parts]
    for judged in results:
        metrics |= _benchmark_metrics(prefix, judged)
    own = [own_result(judged) for judged in results]
    metrics |= _average_metrics(prefix, own) | _sample_metrics(prefix, names.AVERAGE, own)
    published = [judged["paper"] for judged in results if "paper" in judged]
    if len(published) == len(results):
        metrics |= _average_metrics(prefix, published, paper=True)
    return metrics


def deciding_accuracy(results: Sequence[Judgements], selection_share: float | None) -> float:
    """What a scheduler goes by, of the results of one sampling: as `evaluation_metrics`, the average accuracy on the
    questions that are held out for selection, and on all where none are."""
    if selection_share is None:
        return macro_average([own_result(judged) for judged in results]).mean
    return fmean(own_result(_split(judged, selection_share)[0]).accuracy for judged in results)


def without_held_out(judged: Judgements, selection_share: float | None) -> Judgements:
    """The results on the questions that are not held out for selection."""
    return judged if selection_share is None else _split(judged, selection_share)[1]


def _split(judged: Judgements, share: float) -> tuple[Judgements, Judgements]:
    """Results on the questions held out for selection, and on the others."""
    own = own_result(judged)
    ids = [question.question_id for question in own.questions]
    chosen = held_out(own.key.benchmark, ids, share)
    held, rest = (
        {grader: result.among(part) for grader, result in judged.items()} for part in (chosen, frozenset(ids) - chosen)
    )
    return held, rest


def _selection_metrics(prefix: str, results: Sequence[Judgements]) -> dict[str, float]:
    own = {own_result(judged).key.benchmark: own_result(judged).accuracy for judged in results}
    accuracies = own | {names.AVERAGE: fmean(own.values())}
    return {names.eval_metric(prefix, name, "selection_accuracy"): value for name, value in accuracies.items()}


def _benchmark_metrics(prefix: str, judged: Judgements) -> dict[str, float]:
    own = own_result(judged)
    benchmark = own.key.benchmark
    metrics = _accuracy_metrics(prefix, benchmark, own.accuracy, (own.interval, own.fixed_interval)) | {
        names.eval_metric(prefix, benchmark, "truncated"): own.truncated,
        names.eval_metric(prefix, benchmark, "no_answer"): own.no_answer,
        names.eval_metric(prefix, benchmark, "ungradable"): float(own.ungradable),
        names.eval_metric(prefix, benchmark, "tokens"): float(own.tokens),
    }
    if own.key.sampling.adaptive is not None:
        metrics[names.eval_metric(prefix, benchmark, "samples")] = float(own.samples)
        metrics[names.eval_metric(prefix, benchmark, "saved")] = own.saved
    metrics |= _sample_metrics(prefix, benchmark, [own])
    paper = judged.get("paper")
    if paper is None:
        return metrics
    intervals = (paper.interval, paper.fixed_interval)
    metrics |= _accuracy_metrics(prefix, benchmark, published_accuracy(paper), intervals, paper=True)
    return metrics | {
        names.eval_metric(prefix, benchmark, "ungradable", paper=True): float(paper.ungradable),
        names.eval_metric(prefix, benchmark, "disagreement"): disagreement(own, paper),
    }


def _average_metrics(prefix: str, results: Sequence[BenchmarkResult], paper: bool = False) -> dict[str, float]:
    intervals = (macro_average(results), macro_average(results, "fixed_list"))
    accuracy = fmean(map(published_accuracy, results)) if paper else intervals[0].mean
    return _accuracy_metrics(prefix, names.AVERAGE, accuracy, intervals, paper)


def _sample_metrics(prefix: str, benchmark: str, results: Sequence[BenchmarkResult]) -> dict[str, float]:
    """pass@k and majority@k, averaged over results with equally many samples; with one sample both are the
    accuracy."""
    samples = results[0].samples
    if samples == 1 or any(result.samples != samples for result in results):
        return {}
    means = (fmean(result.pass_at_k for result in results), fmean(result.majority_at_k for result in results))
    keys = (names.of_samples("pass", samples), names.of_samples("majority", samples))
    return {names.eval_metric(prefix, benchmark, key): mean for key, mean in zip(keys, means, strict=True)}


def _accuracy_metrics(
    prefix: str, benchmark: str, accuracy: float, intervals: tuple[Interval, Interval], paper: bool = False
) -> dict[str, float]:
    """`intervals`: for new questions, and for a fixed list."""
    bounds = [bound for interval in intervals for bound in (interval.low, interval.high)]
    values = zip(("accuracy", *names.BOUNDS), (accuracy, *bounds), strict=True)
    return {names.eval_metric(prefix, benchmark, name, paper): value for name, value in values}


def published_accuracy(result: BenchmarkResult) -> float:
    """As the published harness averages a benchmark, as a share."""
    return harness_accuracy(result.correct) / 100


def disagreement(first: BenchmarkResult, second: BenchmarkResult) -> float:
    """Share of completions on which two graders' verdicts differ; ungradable is a verdict of its own."""
    pairs = [
        (a.verdict.correct, b.verdict.correct)
        for one, other in zip(first.questions, second.questions, strict=True)
        for a, b in zip(one.samples, other.samples, strict=True)
    ]
    return sum(a is not b for a, b in pairs) / len(pairs)
