"""The three ids. Each is a hash of canonical content and refuses values without a stable serialisation.

- `training_id`: the mathematical trial and its seeds, with digests of the model's, data's and template's content.
- `evaluation_id`: weights x benchmark x template x sampling.
- `grade_id`: an evaluation and the version of its grader.

World size, micro-batches, threads and hardware change bits but not the mathematics, so they are no part of an id. A
field enters a hash only when it is not at its default, so that a field added later leaves old ids alone; golden ids in
the tests guard that, and guard the defaults themselves.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dft_sweeps.spec.models import DataSpec, SamplingSpec, SweepSpec, TrainSpec, TrialSpec
from dft_sweeps.spec.scheduler_models import AshaScheduler
from dft_sweeps.spec.search_models import TpeSearch

ID_LENGTH = 16


@dataclass(frozen=True)
class ContentDigests:
    """What the names in a trial stand for, as hashes of content."""

    model: str
    """Weights, configuration and tokenizer of the initial policy, wherever its files come from."""
    data: str
    """The demonstrations with their instruction, before any template."""
    template: str
    """The chat template that turns a demonstration into tokens."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no blanks, and one spelling for every value.

    Raises:
        TypeError: `value` holds something without a stable serialisation (a set, an object, NaN, a non-string key).
    """
    return json.dumps(_canonical(value, "$"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _canonical(value: Any, path: str) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{path}: {value} has no stable serialisation")
        # 3e-4 and 0.0003, 1 and 1.0 are the same number and must give the same id.
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, list | tuple):
        return [_canonical(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{path}: key {key!r} is not a string")
        return {key: _canonical(item, f"{path}.{key}") for key, item in value.items()}
    raise TypeError(f"{path}: a {type(value).__name__} has no stable serialisation")


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, as hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _id(prefix: str, value: Any) -> str:
    return f"{prefix}-{digest(value)[:ID_LENGTH]}"


def training_id(trial: TrialSpec, content: ContentDigests) -> str:
    """Id of the mathematical trial: what is trained, on what, how, from which seed. E.g. ``t-0123456789abcdef``."""
    return _id(
        "t",
        {
            "content": {"model": content.model, "data": content.data, "template": content.template},
            "model": trial.model.model_dump(exclude_defaults=True, exclude={"path", "revision"}),
            "data": _data(trial.data),
            "train": _train(trial.train),
        },
    )


def _data(spec: DataSpec) -> dict[str, Any]:
    """What of the data decides the mathematics, beside the content."""
    # Content digests stand for source, instruction and template: a moved or renamed file is the same data.
    data = spec.model_dump(exclude_defaults=True, exclude={"source", "instruction", "template"})
    if spec.overflow == "error":
        del data["overflow"]  # where nothing is overlong it is as `drop`, and elsewhere nothing is trained
    if spec.samples is None:
        data.pop("selection", None)  # all rows, in any case
    elif spec.selection == "first":
        data.pop("seed", None)
    return data


def _train(spec: TrainSpec) -> dict[str, Any]:
    train = spec.model_dump(exclude_defaults=True)
    if not spec.normalization.by_micro_batch:
        train.pop("normalization", None)  # sizes of micro-batches that change nothing
    return train


def evaluation_id(weights_digest: str, benchmark_digest: str, template_digest: str, sampling: SamplingSpec) -> str:
    """Id of the completions of one checkpoint on one benchmark. E.g. ``e-0123456789abcdef``."""
    return _id(
        "e",
        {
            "weights": weights_digest,
            "benchmark": benchmark_digest,
            "template": template_digest,
            "sampling": sampling.model_dump(exclude_defaults=True),
        },
    )


def grade_id(evaluation: str, grader: str) -> str:
    """Id of the verdicts of one grader (``name/version``) on one evaluation. E.g. ``g-0123456789abcdef``."""
    return _id("g", {"evaluation": evaluation, "grader": grader})


def sweep_id(name: str, training_ids: list[str], measures: Any, course: Mapping[str, Any] | None = None) -> str:
    """Id of a sweep: its name, the trials in it and what is measured. E.g. ``s-0123456789abcdef``.

    Args:
        training_ids: where a search proposes trials from what others show, of those that it begins with.
        course: the search that proposes, and the scheduler that stops trials, where there are such: with them, what is
            run of a sweep is not known before.
    """
    content = {"name": name, "trials": sorted(training_ids), "measures": measures}
    return _id("s", content | ({"course": course} if course else {}))


def course_of(spec: SweepSpec) -> dict[str, Any]:
    """What of a sweep's search and scheduler decides which trials are run, and how far."""
    proposing = {"search": spec.search} if isinstance(spec.search, TpeSearch) else {}
    stopping = {"scheduler": spec.scheduler} if isinstance(spec.scheduler, AshaScheduler) else {}
    return {
        name: model.model_dump(mode="json", exclude_defaults=True) for name, model in (proposing | stopping).items()
    }
