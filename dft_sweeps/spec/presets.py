"""Presets: values that lie under what a spec sets itself, which always wins.

`corrected` is what the fields' defaults are, computed in bfloat16 where workers have GPUs (on CPUs that gains nothing).
`paper` is what the published code did with the published command (arXiv 2508.05629, github.com/yongliang-wu/DFT), which
is not all that its text says. A preset is resolved when a trial is expanded: two trials of the same values are the same
trial, whatever preset the values came from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

DEFAULT = "corrected"

_MASTER, _MEAN = "parameters and AdamW moments in float32", "the loss averaged over all targets of a batch"

VALUES: dict[str, dict[str, tuple[Any, str]]] = {
    "corrected": {
        "model.parameter_dtype": ("float32", _MASTER),
        "train.normalization.kind": ("token_mean", _MEAN),
        "train.normalization.sum_micro_batches": (False, "clipped by its own norm"),
        "data.selection": ("random", "rows drawn at random"),
        "data.overflow": ("drop", "overlong samples left out"),
    },
    "paper": {
        "model.dtype": ("bfloat16", "computed in bfloat16"),
        "model.parameter_dtype": ("bfloat16", "parameters and AdamW moments in bfloat16"),
        "train.normalization.kind": ("micro_batch_means", "the loss a mean of micro-batches' means"),
        "train.normalization.micro_batch_samples": (4, "4 samples each"),
        "train.normalization.ranks": (8, "on 8 ranks"),
        "train.normalization.sum_micro_batches": (True, "summed over a rank's micro-batches before it is clipped"),
        "train.batch_size": (256, "256 samples per step"),
        "train.learning_rate": (5e-5, "learning rate 5e-5"),
        "train.epochs": (1, "one pass over the data"),
        "data.selection": ("first", "the first rows instead of random ones"),
        "data.samples": (100_000, "100,000 of them"),
        "data.overflow": ("truncate", "overlong samples cut off"),
        "data.max_length": (2048, "at 2,048 tokens"),
        "data.instruction": ("", "no instruction after a question"),
        "data.template": ("chat", "prompts by the tokenizer's chat template"),
    },
}
"""By preset: dotted path of a field, its value, and what that means. The optimizer's and the schedule's defaults are
the paper's already, but that the published warm-up is one step behind: its first step has a learning rate of zero.
Published learning rates are 5e-5 and, for Llama-3.1-8B, 2e-5."""


@dataclass(frozen=True)
class Preset:
    """What a preset came to in one trial."""

    name: str = DEFAULT
    values: dict[str, Any] = field(default_factory=dict)
    """Dotted path to value: what the preset gave, for the spec did not."""
    replaced: tuple[str, ...] = ()
    """Paths for which the preset has a value, but the spec set its own."""

    @property
    def words(self) -> str:
        """E.g. ``preset paper: computed in bfloat16, ...; the spec's own: train.batch_size``."""
        known = VALUES[self.name]
        meant = [known[path][1] if path in known else f"computed in {value}" for path, value in self.values.items()]
        own = f"; the spec's own: {', '.join(self.replaced)}" if self.replaced else ""
        return f"preset {self.name}: {', '.join(meant) or 'nothing'}{own}"


def apply_preset(data: dict[str, Any], gpus_per_worker: int) -> Preset:
    """Adds to a trial's data what its preset gives and it does not set itself; an unknown preset gives nothing."""
    name = data.get("preset", DEFAULT)
    if not isinstance(name, str) or name not in VALUES:
        return Preset()
    values: dict[str, Any] = {}
    replaced = []
    for path, value in _values(name, data, gpus_per_worker):
        *parents, last = path.split(".")
        place: Any = data
        for parent in parents:
            place = place.setdefault(parent, {}) if isinstance(place, dict) else None
        if isinstance(place, dict):
            if last in place:
                replaced.append(path)
            else:
                place[last] = values[path] = value
    return Preset(name, values, tuple(replaced))


def _values(name: str, data: dict[str, Any], gpus_per_worker: int) -> Iterator[tuple[str, Any]]:
    """What the preset has for this trial: a length in steps excludes epochs, 100,000 rows are NuminaMath-CoT's, and
    where all rows are used there is none to select."""
    published_data = name == "paper" and _at(data, "data", "source", "kind") == "numinamath_cot"
    if name == "corrected":
        yield "model.dtype", "bfloat16" if gpus_per_worker else "float32"
    for path, (value, _) in VALUES[name].items():
        applies = {
            "train.epochs": _at(data, "train", "steps") is None,
            "data.samples": published_data,
            "data.selection": published_data or _at(data, "data", "samples") is not None,
        }
        if applies.get(path, True):
            yield path, value


def _at(data: Any, *path: str) -> Any:
    for name in path:
        data = data.get(name) if isinstance(data, dict) else None
    return data
