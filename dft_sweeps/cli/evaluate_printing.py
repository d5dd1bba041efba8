"""What `dft-sweeps evaluate` found, as tables for people or as one JSON object."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from dft_sweeps.cli.printing import console, percent_range, print_json
from dft_sweeps.evaluation.benchmarks import Benchmark
from dft_sweeps.evaluation.intervals import Interval
from dft_sweeps.evaluation.results import BenchmarkResult, Judgements, macro_average
from dft_sweeps.orchestration.evaluation_metrics import own_result, published_accuracy
from dft_sweeps.orchestration.standalone import Candidate, Measured

if TYPE_CHECKING:
    from rich.table import Table

    from dft_sweeps.spec.models import SamplingSpec

Outcome = tuple[Candidate, Measured]


@dataclass(frozen=True)
class Row:
    """One benchmark by one grader; shares in [0, 1], intervals of 95%."""

    sampling: str
    benchmark: str
    grader: str
    """``name/version``."""
    questions: int
    limited: bool
    """Whether the benchmark has more questions."""
    samples: int
    """Of each question."""
    accuracy: float
    """By `paper` as the published harness averages."""
    new_questions: Interval
    fixed_list: Interval
    pass_at_k: float
    majority_at_k: float
    truncated: float
    no_answer: float
    ungradable: int
    tokens: int
    """Generated."""
    tokens_saved: int
    """About how many more the largest number of samples would have taken; 0 where sampling was not adaptive."""
    evaluation_id: str
    grade_id: str
    completions: str | None
    """Directory of the completions on storage; None where only the verdicts are left."""
    verdicts: str


@dataclass(frozen=True)
class Average:
    """Over the benchmarks of one sampling, each weighing the same."""

    sampling: str
    grader: str
    """`own`: each benchmark's own."""
    accuracy: float
    new_questions: Interval
    fixed_list: Interval
    pass_at_k: float
    majority_at_k: float
    tokens: int


def _rows(sampling: str, results: Sequence[Judgements], root: Path) -> list[Row]:
    return [_row(sampling, grader, result, root) for judged in results for grader, result in judged.items()]


def _row(sampling: str, grader: str, result: BenchmarkResult, root: Path) -> Row:
    key = result.key
    completions = root / "evaluations" / key.id
    return Row(
        sampling=sampling,
        benchmark=key.benchmark,
        grader=result.grader,
        questions=len(result.questions),
        limited=result.limited,
        samples=result.samples,
        accuracy=published_accuracy(result) if grader == "paper" else result.accuracy,
        new_questions=result.interval,
        fixed_list=result.fixed_interval,
        pass_at_k=result.pass_at_k,
        majority_at_k=result.majority_at_k,
        truncated=result.truncated,
        no_answer=result.no_answer,
        ungradable=result.ungradable,
        tokens=result.tokens,
        tokens_saved=round(result.tokens * result.saved / (1 - result.saved)),
        evaluation_id=key.id,
        grade_id=result.id,
        completions=str(completions) if completions.is_dir() else None,
        verdicts=str(root / "grades" / result.id),
    )


def _averages(sampling: str, results: Sequence[Judgements]) -> list[Average]:
    """By the benchmarks' own graders; by the published harness's too, where it judged all of them."""
    found = [_average(sampling, "own", [own_result(judged) for judged in results])]
    published = [judged["paper"] for judged in results if "paper" in judged]
    return [*found, _average(sampling, "paper", published)] if len(published) == len(results) else found


def _average(sampling: str, grader: str, results: Sequence[BenchmarkResult]) -> Average:
    new, fixed = macro_average(results), macro_average(results, "fixed_list")
    return Average(
        sampling=sampling,
        grader=grader,
        accuracy=fmean(map(published_accuracy, results)) if grader == "paper" else new.mean,
        new_questions=new,
        fixed_list=fixed,
        pass_at_k=fmean(result.pass_at_k for result in results),
        majority_at_k=fmean(result.majority_at_k for result in results),
        tokens=sum(result.tokens for result in results),
    )


def print_measured_json(outcomes: Sequence[Outcome], benchmarks: Mapping[str, Benchmark], root: Path) -> None:
    """One object: the benchmarks, and of every checkpoint what it is, all rows, the averages, or its error."""
    print_json(
        {
            "storage": str(root),
            "benchmarks": {
                benchmark.name: {
                    "digest": benchmark.digest,
                    "questions": len(benchmark.questions),
                    "limited": benchmark.limited,
                }
                for benchmark in benchmarks.values()
            },
            "checkpoints": [_as_json(candidate, measured, root) for candidate, measured in outcomes],
        }
    )


def _as_json(candidate: Candidate, measured: Measured, root: Path) -> dict[str, Any]:
    results = measured.results.items()
    return {
        "checkpoint": candidate.name,
        "directory": str(candidate.model.directory),
        "weights_digest": candidate.model.weights_digest,
        "model_digest": candidate.model.digest,
        "template": candidate.prompts.template,
        "template_digest": candidate.prompts.full_digest,
        "samplings": {name: sampling.model_dump(mode="json") for name, sampling in candidate.samplings.items()},
        "error": measured.error,
        "seconds": measured.seconds,
        "swap_seconds": measured.swap_seconds,
        "results": [row for sampling, judged in results for row in _rows(sampling, judged, root)],
        "averages": [average for sampling, judged in results for average in _averages(sampling, judged)],
    }


def print_measured(outcomes: Sequence[Outcome], root: Path) -> None:
    """Per checkpoint and sampling a table of accuracies and one of completions, and where these lie."""
    out = console()
    for candidate, measured in outcomes:
        for sampling, results in measured.results.items():
            rows = _rows(sampling, results, root)
            asked = [own_result(judged).key.sampling for judged in results]
            title = f"{candidate.name}, {sampling}: {_sampling_in_words(asked)}"
            out.print(_accuracies(title, rows, _averages(sampling, results)))
            out.print(_completions(rows))
            for line in [*_saved(asked[0], rows), *_places(rows)]:
                out.print(line, soft_wrap=True)
            out.print()


def _accuracies(title: str, rows: Sequence[Row], averages: Sequence[Average]) -> Table:
    graders = ", ".join(dict.fromkeys(row.grader for row in rows))
    caption = f"In percent, with intervals of 95%; ungradable completions count as wrong. Graders: {graders}."
    counts = {row.samples for row in rows}
    k = str(min(counts)) if len(counts) == 1 else "k"
    of_samples = [] if counts == {1} else [f"pass@{k}", f"maj@{k}"]
    headings = ["accuracy", "new questions", "fixed list", *of_samples]
    table = _table(["benchmark", "grader"], headings, title=title, caption=caption)
    for row in rows:
        table.add_row(row.benchmark, _name(row.grader), *_measures(row)[: len(headings)])
    if len(_by_benchmark(rows)) > 1:
        table.add_section()
        for average in averages:
            table.add_row("average", average.grader, *_measures(average)[: len(headings)])
    return table


def _completions(rows: Sequence[Row]) -> Table:
    graders = [_name(row.grader) for row in max(_by_benchmark(rows).values(), key=len)]
    caption = f"No answer (%) and ungradable: by {' / '.join(graders)}." if len(graders) > 1 else None
    headings = ["questions", "samples", "tokens", "truncated (%)", "no answer (%)", "ungradable"]
    table = _table(["benchmark"], headings, caption=caption)
    for benchmark, judged in _by_benchmark(rows).items():
        own = judged[0]
        table.add_row(
            benchmark,
            f"first {own.questions:,}" if own.limited else f"{own.questions:,}",
            str(own.samples),
            f"{own.tokens:,}",
            f"{100 * own.truncated:.1f}",
            " / ".join(f"{100 * row.no_answer:.1f}" for row in judged),
            " / ".join(f"{row.ungradable:,}" for row in judged),
        )
    return table


def _table(of_text: Sequence[str], of_numbers: Sequence[str], **options: Any) -> Table:
    from rich.table import Table

    table = Table(title_justify="left", caption_justify="left", **options)
    for heading in of_text:
        table.add_column(heading, overflow="fold")
    for heading in of_numbers:
        table.add_column(heading, justify="right", overflow="fold")
    return table


def _measures(found: Row | Average) -> list[str]:
    intervals = [percent_range(each.low, each.high) for each in (found.new_questions, found.fixed_list)]
    of_samples = [f"{100 * share:.1f}" for share in (found.pass_at_k, found.majority_at_k)]
    return [f"{100 * found.accuracy:.1f}", *intervals, *of_samples]


def _name(grader: str) -> str:
    """A grader without its version."""
    return grader.partition("/")[0]


def _sampling_in_words(asked: Sequence[SamplingSpec]) -> str:
    """`asked`: one sampling on each benchmark, which differ in the context that cuts completions off, if one does."""
    sampling = asked[0]
    length = f"up to {sampling.max_new_tokens:,} new tokens"
    if context := next((each.context for each in asked if each.context), None):
        length += f" in a context of {context:,}"
    if sampling.temperature == 0:
        return f"the likeliest tokens, {length}"
    many = "1 sample" if sampling.samples == 1 else f"{sampling.samples} samples"
    many = f"up to {many}" if sampling.adaptive else many
    return f"{many} at temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, {length}"


def _saved(sampling: SamplingSpec, rows: Sequence[Row]) -> list[str]:
    """What adaptive sampling did without, per benchmark."""
    if sampling.adaptive is None:
        return []
    return [
        f"{benchmark}: {own.samples} of {sampling.samples} samples drawn for an interval of "
        f"±{sampling.adaptive.half_width:g} points; about {own.tokens_saved:,} tokens saved"
        for benchmark, (own, *_) in _by_benchmark(rows).items()
    ]


def _places(rows: Sequence[Row]) -> list[str]:
    lines = []
    for benchmark, (own, *_) in _by_benchmark(rows).items():
        kept, place = ("completions", own.completions) if own.completions else ("verdicts", own.verdicts)
        lines.append(f"{benchmark}: {kept} in {min(place, os.path.relpath(place), key=len)}")
    return lines


def _by_benchmark(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each benchmark, its own grader's first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.benchmark, []).append(row)
    return found
