from __future__ import annotations

from typing import Any

import yaml

from dft_sweeps.report.cells import cells
from dft_sweeps.spec.expand import trial_name
from dft_sweeps.tracking.reader import TrialRow

OBJECTIVE, SEED = "train.objective.kind", "train.seed"


def row(axes: dict[str, Any]) -> TrialRow:
    return TrialRow(f"t-{trial_name(axes)}", trial_name(axes), axes, "FINISHED", "r", {}, {}, {}, None, None)


def grouped(axes: list[dict[str, Any]], variants: list[dict[str, Any]] | None = None) -> list[tuple[str, int]]:
    text = yaml.safe_dump({"name": "x", "variants": variants or []})
    return [(cell.name, len(cell.trials)) for cell in cells(map(row, axes), text)]


def test_an_axis_of_seeds() -> None:
    axes = [{OBJECTIVE: kind, SEED: seed} for kind in ("sft", "dft") for seed in (0, 1, 2)]
    assert grouped(axes) == [("objective=sft", 3), ("objective=dft", 3)]
    assert grouped([{SEED: seed} for seed in (0, 1)]) == [("trial", 2)]


def test_without_seeds_every_trial_is_a_cell_under_its_own_name() -> None:
    axes = [{OBJECTIVE: kind, "train.learning_rate": rate} for kind in ("sft", "dft") for rate in (1e-3, 3e-4)]
    assert grouped(axes) == [(trial_name(each), 1) for each in axes]


def test_a_seed_of_the_data_is_no_training_seed() -> None:
    axes = [{"data.source.seed": seed, SEED: 1} for seed in (0, 1)]
    assert grouped(axes) == [("seed=0", 1), ("seed=1", 1)]


def test_variants_that_set_seeds_are_cells_by_what_they_set_besides() -> None:
    variants = [
        {"name": "a", "set": {OBJECTIVE: "dft", SEED: 0}},
        {"name": "b", "set": {OBJECTIVE: "dft", SEED: 1}},
        {"name": "c", "set": {OBJECTIVE: "sft", SEED: 0}},
    ]
    axes = [{"variant": name, "train.batch_size": size} for name in "abc" for size in (8, 16)]
    found = [("objective=dft batch_size=8", 2), ("objective=dft batch_size=16", 2)]
    assert grouped(axes, variants) == [*found, ("c batch_size=8", 1), ("c batch_size=16", 1)]


def test_a_variant_that_leaves_the_templates_seed_is_of_the_same_cell() -> None:
    variants = [{"name": "as-it-is"}, {"name": "again", "set": {SEED: 7}}, {"name": "sft", "set": {OBJECTIVE: "sft"}}]
    axes = [{"variant": variant["name"]} for variant in variants]
    assert grouped(axes, variants) == [("trial", 2), ("sft", 1)]
