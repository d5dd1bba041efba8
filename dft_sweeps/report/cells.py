"""Trials that differ in `train.seed` alone: one cell of a sweep's grid, under one name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from dft_sweeps.spec.expand import trial_name
from dft_sweeps.tracking.reader import TrialRow

SEED = "train.seed"
VARIANT = "variant"


@dataclass(frozen=True)
class Cell:
    name: str
    """As a trial's, without its seed."""
    axes: dict[str, Any]
    """As a trial's, without its seed."""
    trials: tuple[TrialRow, ...]
    """One for each seed, in the sweep's order."""


def cells(rows: Iterable[TrialRow], spec_text: str) -> list[Cell]:
    """The cells of a sweep, in the order of its grid.

    The seed is that of an axis `train.seed`, or of variants that set it and are equal otherwise; what such variants set
    besides are then axes of the cell.
    """
    variants = _equal_but_for_seeds(yaml.safe_load(spec_text).get("variants", ()))
    grouped: dict[str, tuple[dict[str, Any], list[TrialRow]]] = {}
    for row in rows:
        axes = _without_seed(row.axes, variants)
        # A trial without a seed of its own is a cell of its own.
        key = row.name if axes == row.axes else json.dumps(axes, sort_keys=True)
        grouped.setdefault(key, (axes, []))[1].append(row)
    return [Cell(_name(axes, group[0]), axes, tuple(group)) for axes, group in grouped.values()]


def _name(axes: Mapping[str, Any], row: TrialRow) -> str:
    return row.name if axes == row.axes else trial_name(axes)


def _equal_but_for_seeds(variants: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Variants that some other equals but for the seed, to what they set besides."""
    rests = {
        variant["name"]: {path: value for path, value in variant.get("set", {}).items() if path != SEED}
        for variant in variants
    }
    contents = {name: json.dumps(rest, sort_keys=True) for name, rest in rests.items()}
    counts = Counter(contents.values())
    return {name: rest for name, rest in rests.items() if counts[contents[name]] > 1}


def _without_seed(axes: Mapping[str, Any], variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    merged = variants.get(axes.get(VARIANT, ""))
    left_out = {SEED} if merged is None else {SEED, VARIANT}
    return {**(merged or {}), **{path: value for path, value in axes.items() if path not in left_out}}
