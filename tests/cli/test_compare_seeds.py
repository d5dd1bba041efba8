"""`compare` on sweeps of several seeds, with held-out questions, and its two corrections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dft_sweeps.cli import compare
from dft_sweeps.evaluation.paired import difference_bounds, holm, max_t
from dft_sweeps.evaluation.paired_seeds import compare_seeds
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking.writer import Tracker
from tests.report.synthetic_seeds import (
    SEED_AXIS,
    SEED_VARIANTS,
    SEEDS,
    SIZES,
    STEPS,
    tables,
    write_seeds,
    write_tables,
)

LAST = STEPS[-1]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("storage")
    tracker = Tracker(f"sqlite:///{storage}/mlflow.db", str(storage / "artifacts"))
    write_seeds(tracker)
    write_seeds(tracker, SEED_VARIANTS, "variants", share=0.3)
    write_seeds(tracker, SEED_AXIS, "uneven", short={2: 20}, without_verdicts=(0,))
    listed = [{"training_id": f"t-{name}", "name": name, "axes": {}} for name in ("old", "hot")]
    parent = tracker.open_sweep("odd", "s-odd", "name: odd", listed, "m")
    for trial, settings in zip(listed, (None, {"temperature": 1.5}), strict=True):
        found = [
            type(table)(**vars(table) | {"settings": settings and {**(table.settings or {}), **settings}})
            for table in tables("sft", 0, LAST)
        ]
        write_tables(tracker, tracker.open_trial(parent, trial["training_id"], trial["name"], {}, {}), LAST, found)
    return storage


def call(storage: Path, *arguments: str) -> Result:
    return CliRunner().invoke(compare.command, ["--storage", str(storage), *arguments])


def document(storage: Path, *arguments: str) -> dict[str, Any]:
    found = call(storage, *arguments, "--json")
    assert found.exit_code == 0, found.exception
    return json.loads(found.stdout)  # type: ignore[no-any-return]


def counts(kind: str, benchmark: str, share: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    kept = [
        t.without(t.held_out) for seed in SEEDS for t in tables(kind, seed, LAST, share) if t.benchmark == benchmark
    ]
    right, samples = zip(*(table.counts for table in kept), strict=True)
    return np.stack(right), np.stack(samples)


@pytest.mark.parametrize(("sweep", "share"), [("seeds", None), ("variants", 0.3)])
def test_a_name_without_its_seed_means_all_seeds(storage: Path, sweep: str, share: float | None) -> None:
    found = document(storage, "objective=dft", "objective=sft", "--sweep", sweep)
    pairs = [(counts("dft", name, share), counts("sft", name, share)) for name in SIZES]
    for each, benchmarks in zip(found["differences"], [*([pair] for pair in pairs), pairs], strict=True):
        expected, fixed = (compare_seeds(benchmarks, kind=kind) for kind in ("new_questions", "fixed_list"))  # type: ignore[arg-type]
        keys = ("difference", "ci_low", "ci_high", "p_value", "p_these_seeds", "seed_spread_a")
        assert [each[key] for key in keys] == pytest.approx(
            [expected.difference, expected.low, expected.high, expected.p_value, expected.p_these_seeds,
             expected.spread_a]
        )  # fmt: skip
        assert (each["fixed_low"], each["fixed_high"]) == pytest.approx((fixed.low, fixed.high))
        assert (each["seeds_a"], each["seeds_b"], each["p_test"]) == (3, 3, "questions and seeds")
        assert each["accuracy_a"] - each["accuracy_b"] == pytest.approx(each["difference"])
    p_values = [each["p_value"] for each in found["differences"]]
    assert [each["p_corrected"] for each in found["differences"]] == pytest.approx(holm(p_values))
    left_out = [f"{out} of the {size} questions of {name}, which are held out for selection"
                for name, size, out in (("amc23", 40, 12), ("math500", 120, 36))]  # fmt: skip
    assert found["notes"] == ([] if share is None else left_out)
    assert [each["questions"] for each in found["differences"]] == ([40, 120, 160] if share is None else [28, 84, 112])


def test_the_output_is_honest_on_what_it_tells_of_other_seeds(storage: Path) -> None:
    text = call(storage, "objective=dft", "objective=sft", "--sweep", "seeds").stdout
    parts = ("objective=dft (3 seeds) minus objective=sft (3 seeds): accuracy (%) at step 30, sampled", "SD A, B")
    parts += ("p, these seeds", "nothing of other seeds, so claim by p", "for 3 comparisons by Holm's method")
    assert [part for part in parts if part not in text] == []
    assert "Neither p-values nor intervals" not in text


def test_single_trials_of_a_cell_are_still_compared_as_such(storage: Path) -> None:
    found = document(storage, "objective=dft seed=0", "t-seeds-sft-1", "--sweep", "seeds")["differences"]
    assert {(each["a"], each["b"], each["seeds_a"], each["p_test"]) for each in found} == {
        ("objective=dft seed=0", "objective=sft seed=1", 1, "sign-flip over questions")
    }
    assert found[0]["p_these_seeds"] is None


def test_one_seed_against_several_holds_no_seeds_and_says_so(storage: Path) -> None:
    found = document(storage, "objective=dft", "objective=sft seed=1", "--sweep", "seeds")
    assert {(each["seeds_a"], each["seeds_b"], each["seed_spread_a"]) for each in found["differences"]} == {
        (3, 1, None)
    }
    of_cell, of_trial = counts("dft", "amc23")[0].sum(axis=0), np.array(tables("sft", 1, LAST)[0].right, dtype=float)
    sides = of_cell, np.full(40, 12.0), of_trial, np.full(40, 4.0)
    first = found["differences"][0]
    assert {each["p_test"] for each in found["differences"]} == {"interval over questions"}
    bounds = np.array([difference_bounds(*sides, level=1 - p) for p in np.array([0.999, 1.001]) * first["p_value"]])
    # The bound towards 0 crosses it at the level of p.
    nearest = bounds[:, 1] if first["difference"] > 0 else -bounds[:, 2]
    assert nearest[0] < 0 < nearest[1]
    assert found["notes"] == [
        "objective=sft seed=1 has one seed, so that no interval of objective=dft minus objective=sft seed=1 holds seeds"
    ]


def test_sweeps_are_paired_by_name_without_the_seed(storage: Path) -> None:
    found = document(storage, "seeds", "variants")
    names = ["objective=sft", "objective=dft"]
    assert [(each["a"], each["b"]) for each in found["differences"][::3]] == [(name, name) for name in names]
    # The same verdicts by construction: equal policies.
    assert {round(each["difference"], 9) for each in found["differences"]} == {0.0}
    assert {round(each["p_value"], 3) for each in found["differences"]} == {1.0}


def test_seeds_that_lag_or_lack_verdicts_are_told(storage: Path) -> None:
    found = document(storage, "objective=dft", "objective=sft", "--sweep", "uneven")
    assert {(each["step_a"], each["seeds_a"]) for each in found["differences"]} == {(20, 2)}
    assert "objective=dft seed=0 (finished) has no results question by question and is left out" in found["notes"]
    assert any("have reached different steps, of which 20 is the last that all have" in note for note in found["notes"])


def test_at_step_0_all_seeds_are_the_one_base_model(storage: Path) -> None:
    found = document(storage, "objective=dft", "objective=sft", "--sweep", "seeds", "--step", "0")["differences"]
    assert {(each["seeds_a"], each["difference"], each["p_value"]) for each in found} == {(1, 0.0, 1.0)}


def test_max_t_shares_the_signs_of_questions(storage: Path) -> None:
    chosen = ("objective=dft seed=0", "objective=sft seed=0", "--sweep", "seeds", "--correction", "max-t")
    found = document(storage, *chosen)["differences"]
    parts = [
        (np.array(a.right) - np.array(b.right)) / 4
        for a, b in zip(tables("dft", 0, LAST), tables("sft", 0, LAST), strict=True)
    ]
    matrix = np.zeros((160, 3))
    matrix[:40, 0], matrix[40:, 1] = parts
    matrix[:, 2] = np.concatenate([part / len(part) for part in parts])
    expected = np.maximum(max_t(matrix), [each["p_value"] for each in found])
    assert [each["p_corrected"] for each in found] == pytest.approx(list(expected), abs=2e-3)
    assert {each["correction"] for each in found} == {"max-t"}
    assert "p (max-t)" in call(storage, *chosen).stdout


REFUSED = {
    "max-t of seeds": (
        ("objective=dft", "objective=sft", "--sweep", "seeds", "--correction", "max-t"),
        "--correction: max-t flips the signs of questions, which know nothing of other seeds",
    ),
    "sampled differently": (
        ("t-hot", "t-seeds-sft-1"),
        "--sampling: hot and objective=sft seed=1 were sampled differently: temperature 1.5 and 1",
    ),
    "cell and its trial": (
        ("objective=dft", "objective=dft seed=0", "--sweep", "seeds"),
        "'objective=dft' and 'objective=dft seed=0' are one trial (t-seeds-dft-0)",
    ),
    "several cells": (("objective", "t-hot"), "'objective' fits several trials; choose one by its id, or its sweep"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared(case: str, storage: Path) -> None:
    arguments, message = REFUSED[case]
    found = call(storage, *arguments)
    assert isinstance(found.exception, SpecError)
    assert str(found.exception).startswith(message), str(found.exception)


def test_trials_without_recorded_settings_are_compared_with_a_note(storage: Path) -> None:
    found = document(storage, "t-old", "t-seeds-sft-1")
    assert found["notes"] == ["how old was sampled is not recorded, so that it is not checked to be alike"]


def test_help_teaches_when_each_correction_is_right() -> None:
    text = " ".join(CliRunner().invoke(compare.command, ["--help"]).stdout.split())
    assert "holm holds whatever the comparisons have in common" in text
    assert "max-t flips the signs of a question in all comparisons at once" in text
