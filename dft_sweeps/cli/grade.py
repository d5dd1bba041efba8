"""`dft-sweeps grade`: both graders' verdicts on completions made anywhere."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dft_sweeps.cli.printing import console, percent_range

if TYPE_CHECKING:
    from dft_sweeps.evaluation.grade_file import Judged, Tally

_PROGRESS_EVERY_S = 5.0
_MANY = 500
"""Completions whose grading takes long enough to say that it has begun."""
_WIDEST_CELL = 32


@click.command()
@click.argument("file", metavar="FILE.jsonl", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--workers", type=click.IntRange(1, 256), help="Grading processes. [default: one per usable CPU, 8 at most]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
def command(file: Path, workers: int | None, as_json: bool) -> None:
    """Grade completions made anywhere with both graders, strict and paper.

    Every line of FILE.jsonl is an object with `answer` (text or a number), `completion` and, if you like, `id`: lines
    of one id are samples of one question, and a line without one is a question of its own. strict compares values
    (math-verify and our own comparison); paper gives the verdicts of the harness behind the published numbers, quirks
    included. Nothing in a completion is ever executed; one that takes too long or too much memory is ungradable, and
    counts as wrong.

    Prints accuracies with 95% intervals, for other questions like these and for this fixed list of questions, and the
    first completions on which the graders disagree. With --json prints, in the file's order, `strict` and `paper`
    (true, false, or null for ungradable), what each of them extracted (`extracted` is strict's), and why.

    \b
    Example, with a line of samples.jsonl:
      {"id": 1, "answer": "1/2", "completion": "so it is \\\\boxed{0.5}"}
      dft-sweeps grade samples.jsonl
      dft-sweeps grade samples.jsonl --json | jq -c 'select(.strict != .paper)'
    """
    from dft_sweeps.evaluation.grade_file import Tally, check_file, graded
    from dft_sweeps.evaluation.grading import GraderPool

    total = check_file(file)
    workers = workers or min(8, len(os.sched_getaffinity(0)))
    if total > _MANY:
        click.echo(f"grading {total:,} completions in {workers} processes", err=True)
    tally = Tally()
    with GraderPool(workers) as pool:
        for judged in graded(file, pool, _progress(total)):
            if as_json:
                click.echo(json.dumps(_record(judged)))
            else:
                tally.add(judged)
    if not as_json:
        _print(tally)


def _progress(total: int) -> Callable[[int], None]:
    """Says on standard error how far it is, every few seconds."""
    started = shown = time.monotonic()

    def show(done: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= _PROGRESS_EVERY_S:
            shown, rate = now, done / (now - started)
            left = (total - done) / rate
            click.echo(f"graded {done:,} of {total:,}, {rate:,.0f} a second, {left:,.0f} s left", err=True)

    return show


def _record(judged: Judged) -> dict[str, Any]:
    return {
        "row": judged.row.number,
        "id": judged.row.id,
        "strict": judged.strict.correct,
        "paper": judged.paper.correct,
        "extracted": judged.strict.extracted,
        "reason": judged.strict.reason,
        "paper_extracted": judged.paper.extracted,
        "paper_reason": judged.paper.reason,
    }


def _print(tally: Tally) -> None:
    from rich.table import Table

    from dft_sweeps.evaluation.grade_file import FILE_GRADERS
    from dft_sweeps.evaluation.grading import grader_version

    out = console()
    table = Table(
        title=f"{tally.completions:,} completions of {tally.questions:,} questions",
        title_justify="left",
        caption="Intervals of 95%. Ungradable completions count as wrong.",
        caption_justify="left",
    )
    table.add_column("grader")
    for heading in ("accuracy (%)", "for new questions", "for this fixed list", "ungradable", "no answer"):
        table.add_column(heading, justify="right")
    for grader in FILE_GRADERS:
        found = tally.summary(grader)
        intervals = [percent_range(each.low, each.high) for each in (found.new_questions, found.fixed_list)]
        counts = (f"{found.ungradable:,}", f"{found.no_answer:,}")
        table.add_row(grader_version(grader), f"{100 * found.new_questions.mean:.1f}", *intervals, *counts)
    out.print(table)
    if not tally.disagreements:
        return out.print("The graders agree on every completion.")
    out.print(_disagreements(tally))


def _disagreements(tally: Tally) -> Any:
    from rich.table import Table
    from rich.text import Text

    shown = len(tally.first_disagreements)
    which = "all of them" if shown == tally.disagreements else f"the first {shown}"
    table = Table(title=f"The graders disagree on {tally.disagreements:,}; {which}:", title_justify="left")
    for heading in ("row", "id", "answer", "strict", "extracted", "paper", "extracted"):
        table.add_column(heading, overflow="fold")
    for each in tally.first_disagreements:
        cells = [str(each.row.number), each.row.id or "-", each.row.answer]
        for verdict in (each.strict, each.paper):
            cells += [_word(verdict.correct), "-" if verdict.extracted is None else verdict.extracted]
        table.add_row(*(Text(_cell(cell)) for cell in cells))
    return table


def _word(correct: bool | None) -> str:
    return "ungradable" if correct is None else "right" if correct else "wrong"


def _cell(text: str) -> str:
    """Short, and without characters that a terminal would obey or cannot show."""
    shown = text if len(text) <= _WIDEST_CELL else f"{text[: _WIDEST_CELL - 3]}..."
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in shown)
