"""Golden tables of a made-up sweep, read back from a real MLflow store."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from rich.console import Console

from dft_sweeps.report.collect import collect
from dft_sweeps.report.curves import SweepCurves
from dft_sweeps.report.tables import accuracy_table, accuracy_tables, csv_text, markdown, rich_table, spread
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.tracking.writer import Tracker
from tests.report.synthetic_sweep import write_sweep


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> SweepCurves:
    storage = tmp_path_factory.mktemp("storage")
    uri = f"sqlite:///{storage}/mlflow.db"
    write_sweep(Tracker(uri, str(storage / "artifacts")), steps=20)
    reader = Reader(uri)
    return collect(reader, reader.find_sweep("quickstart"))


def test_markdown_table(curves: SweepCurves) -> None:
    table = accuracy_table(curves, curves.samplings[0], "average")
    assert markdown(table, curves.notes) == GOLDEN_MARKDOWN


def test_terminal_table(curves: SweepCurves) -> None:
    text = drawn(curves, width=100)
    assert text == GOLDEN_TERMINAL


def test_a_narrow_terminal_says_which_steps_it_leaves_out(curves: SweepCurves) -> None:
    text = drawn(curves, width=60)
    assert "base" in text and "step 20" in text
    assert "Not shown for want of width: step 10; best on test." in text


def drawn(curves: SweepCurves, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(rich_table(accuracy_table(curves, curves.samplings[0], "average"), width))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def test_csv_has_every_measurement_once(curves: SweepCurves) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(curves))))
    keys = {(row["training_id"], row["sampling"], row["benchmark"], row["grader"], row["step"]) for row in rows}
    # trials, samplings, steps, benchmarks with their average and the one that the published harness judged too
    assert len(rows) == len(keys) == 6 * 2 * 3 * (3 + 1)
    assert {row["grader"] for row in rows if row["benchmark"] == "arithmetic_3"} == {"strict/1", "paper/1"}
    assert {row["grader"] for row in rows if row["benchmark"] == "average"} == {"exact/1 and strict/1"}
    paper = [row for row in rows if row["grader"] == "paper/1"]
    assert all(float(row["fixed_high"]) - float(row["accuracy"]) == pytest.approx(0.01) for row in paper)
    assert all(0 <= float(row["ci_low"]) <= float(row["accuracy"]) <= float(row["ci_high"]) <= 1 for row in rows)
    assert {row["train.objective.kind"] for row in rows} == {"sft", "dft"}


def test_every_table_names_its_grader_and_kind_of_interval(curves: SweepCurves) -> None:
    tables = accuracy_tables(curves, curves.benchmarks)
    assert len(tables) == 2 * 4
    new, fixed = "95% intervals for new questions.", "95% intervals for this fixed list of questions."
    assert [table.subtitle for table in tables[::2]] == [
        f"Grader exact/1 and strict/1; {new}",
        f"Grader exact/1; {new}",
        f"Grader strict/1; {new}",
        f"Grader strict/1; {new}",
    ]
    paper = [table for table in tables if "paper" in table.subtitle]
    assert {table.subtitle for table in paper} == {f"Grader paper/1, averaged as in the published harness; {fixed}"}
    point = paper[0].rows[0][1][0]
    assert f"{100 * point.accuracy:.1f} ({100 * point.fixed_low:.1f}-{100 * point.fixed_high:.1f})" in markdown(
        paper[0], []
    )
    old = replace(curves, graders={})
    assert accuracy_table(old, curves.samplings[0], "average").subtitle == f"Grader not recorded; {new}"


def test_notes_say_what_the_numbers_stand_on(curves: SweepCurves) -> None:
    assert curves.notes == (
        "Trained on demonstrations with wrong steps (5%); wrong steps favour DFT over SFT.",
        "Not finished: clean objective=dft learning_rate=3e-4 (running).",
    )
    assert curves.accuracy_notes[1:] == (
        "Limited: arithmetic_3 to its first 100 questions.",
        "Completions that could not be graded, and count as wrong: 12.",
    )


def test_a_trial_without_measurements_has_empty_cells(curves: SweepCurves) -> None:
    waiting = replace(curves.trials[0], accuracy={key: [] for key in curves.trials[0].accuracy})
    table = accuracy_table(replace(curves, trials=(waiting, *curves.trials[1:])), curves.samplings[1], "arithmetic_2")
    assert markdown(table, []).count("| - | - | - |") == 1


@pytest.mark.parametrize("room", range(2, 12))
def test_spread_keeps_both_ends_and_repeats_nothing(room: int) -> None:
    steps = list(range(0, 110, 10))
    kept = spread(steps, room)
    assert len(set(kept)) == len(kept) == room
    assert kept[0] == 0 and kept[-1] == 100


GOLDEN_MARKDOWN = """\
**quickstart, average of the benchmarks: accuracy (%), sampled (temperature 1, 4 samples per question)**

Grader exact/1 and strict/1; 95% intervals for new questions.

| variant | learning rate | objective | base | step 10 | step 20 | best on test |
| --- | --- | --- | --: | --: | --: | --: |
| wrong-steps | 3e-4 | sft | 63.5 (60.0-67.0) | 74.1 (70.9-77.3) | 79.7 (76.8-82.7) | 79.7 at 20 |
| wrong-steps | 3e-4 | dft | 63.5 (60.0-67.0) | 81.0 (78.1-84.0) | 88.2 (85.7-90.6) | 88.2 at 20 |
| wrong-steps | 1e-3 | sft | 63.5 (60.0-67.0) | 70.5 (67.1-73.8) | 74.3 (71.1-77.6) | 74.3 at 20 |
| wrong-steps | 1e-3 | dft | 63.5 (60.0-67.0) | 78.9 (75.9-81.9) | 87.5 (85.1-90.0) | 87.5 at 20 |
| clean | 3e-4 | sft | 63.5 (60.0-67.0) | 80.8 (77.9-83.8) | 88.5 (86.1-91.0) | 88.5 at 20 |
| clean | 3e-4 | dft | 63.5 (60.0-67.0) | 81.1 (78.2-84.0) | 89.4 (87.0-91.7) | 89.4* at 20 |

Trained on demonstrations with wrong steps (5%); wrong steps favour DFT over SFT.  \n\
Not finished: clean objective=dft learning_rate=3e-4 (running).  \n\
"""

GOLDEN_TERMINAL = """\
quickstart, average of the benchmarks: accuracy (%), sampled (temperature 1, 4 samples per
question)
Grader exact/1 and strict/1; 95% intervals for new questions.
┏━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━┳━━━━━━━━━━━┳━━━━━━━━━━━┳━━━━━━━━━━━┳━━━━━━━━━━━┳━━━━━━━━━━━┓
┃             ┃               ┃           ┃           ┃           ┃           ┃      best ┃
┃ variant     ┃ learning rate ┃ objective ┃      base ┃   step 10 ┃   step 20 ┃   on test ┃
┡━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━╇━━━━━━━━━━━╇━━━━━━━━━━━╇━━━━━━━━━━━╇━━━━━━━━━━━╇━━━━━━━━━━━┩
│ wrong-steps │ 3e-4          │ sft       │      63.5 │      74.1 │      79.7 │      79.7 │
│             │               │           │ 60.0-67.0 │ 70.9-77.3 │ 76.8-82.7 │     at 20 │
│ wrong-steps │ 3e-4          │ dft       │      63.5 │      81.0 │      88.2 │      88.2 │
│             │               │           │ 60.0-67.0 │ 78.1-84.0 │ 85.7-90.6 │     at 20 │
├─────────────┼───────────────┼───────────┼───────────┼───────────┼───────────┼───────────┤
│ wrong-steps │ 1e-3          │ sft       │      63.5 │      70.5 │      74.3 │      74.3 │
│             │               │           │ 60.0-67.0 │ 67.1-73.8 │ 71.1-77.6 │     at 20 │
│ wrong-steps │ 1e-3          │ dft       │      63.5 │      78.9 │      87.5 │      87.5 │
│             │               │           │ 60.0-67.0 │ 75.9-81.9 │ 85.1-90.0 │     at 20 │
├─────────────┼───────────────┼───────────┼───────────┼───────────┼───────────┼───────────┤
│ clean       │ 3e-4          │ sft       │      63.5 │      80.8 │      88.5 │      88.5 │
│             │               │           │ 60.0-67.0 │ 77.9-83.8 │ 86.1-91.0 │     at 20 │
│ clean       │ 3e-4          │ dft       │      63.5 │      81.1 │      89.4 │     89.4* │
│             │               │           │ 60.0-67.0 │ 78.2-84.0 │ 87.0-91.7 │     at 20 │
└─────────────┴───────────────┴───────────┴───────────┴───────────┴───────────┴───────────┘"""
