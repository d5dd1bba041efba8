"""Checkpoints compared from what storage holds of them, found by the digest of their weights.

Only reads: a damaged entry of a checkpoint that is asked for raises with its path. One that is not known to be of it
is left out, and said.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dft_sweeps.evaluation import tables
from dft_sweeps.evaluation.results import stored_sampling
from dft_sweeps.evaluation.store import CorruptEntry
from dft_sweeps.report.sides import Run, Side, describe
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.identity import evaluation_id
from dft_sweeps.spec.models import ModelSpec
from dft_sweeps.tracking.question_results import QuestionResults
from dft_sweeps.training.model_files import resolve_model, weights_digest

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def is_checkpoint(name: str, directory: Path) -> bool:
    """Whether this is ``embedded`` or the path of a directory with weights; relative ones start at `directory`."""
    return name == "embedded" or any((directory / Path(name).expanduser()).glob("*.safetensors"))


def is_hub_id(name: str) -> bool:
    """Whether this may be a Hugging Face id, ``ID`` or ``ID@REVISION``."""
    return _HUB_ID.fullmatch(name) is not None


def checkpoint_side(storage: Path, name: str, directory: Path, paper: bool) -> Side:
    """What is stored of a checkpoint, by sampling.

    Args:
        storage: holds the ``grades`` that `dft-sweeps evaluate` and sweeps write.
        name: a directory, ``embedded``, or a Hugging Face id that is in the hub's cache on this machine.
        paper: by the published harness's grader, not each benchmark's own.

    Raises:
        SpecError: no such checkpoint, or nothing is stored of it.
        CorruptEntry: a stored grading is damaged.
    """
    model = _find_model(name, directory)
    digest = weights_digest(model)
    notes: list[str] = []
    stored = stored_results(storage, digest, notes.append)
    found = [each for each in stored if each.grader.startswith("paper/") == paper]
    if not found:
        grader = " by the grader paper" if paper else ""
        raise SpecError(
            f"nothing is stored{grader} in {storage} of {name} (weights {digest[:12]}); first run\n"
            f"  dft-sweeps evaluate {name} --benchmarks NAME,... --storage {storage}"
            + "".join(f"\n{note}" for note in notes)
        )
    samplings: dict[str, list[QuestionResults]] = defaultdict(list)
    for each in found:
        samplings[each.sampling].append(each)
    runs: dict[str, tuple[Run, ...]] = {sampling: (tuple(each),) for sampling, each in samplings.items()}
    return Side(name, None, runs, named=False, notes=tuple(notes))


def stored_results(storage: Path, digest: str, left_out: Callable[[str], None]) -> list[QuestionResults]:
    """Every stored grading of the weights of this digest, in the order of samplings, benchmarks and graders.

    Their samplings are described (`sides.describe`), and with the template's digest where there are several templates.
    Of gradings that differ in the context alone, the one of the longest keeps the plain description.

    Args:
        left_out: told of every damaged description that may be of other weights, as they cannot be read from it.

    Raises:
        CorruptEntry: a grading of these weights is damaged.
    """
    entries = list(_gradings(storage, digest, left_out))
    templates = {about["identity"]["template_digest"] for _, about in entries}
    found = [_question_results(path, about, len(templates) > 1) for path, about in entries]
    found = _told_apart(sorted(found, key=_context, reverse=True))
    return sorted(found, key=lambda each: (each.sampling, each.benchmark, each.grader, each.benchmark_digest))


def _context(results: QuestionResults) -> float:
    """Tokens after which completions were cut off; without end where none could be."""
    context = results.settings and results.settings.get("context")
    return context or math.inf


def _told_apart(found: Sequence[QuestionResults]) -> list[QuestionResults]:
    """With the context in the description of whatever a former one equals otherwise."""
    taken: set[tuple[str, ...]] = set()
    told = []
    for each in found:
        content = (each.sampling, each.benchmark, each.benchmark_digest, each.grader)
        told.append(replace(each, sampling=f"{each.sampling}, context {_context(each)}") if content in taken else each)
        taken.add(content)
    return told


def _find_model(name: str, directory: Path) -> Path:
    if is_checkpoint(name, directory):
        return resolve_model(ModelSpec(path=name), directory)
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    path, _, revision = name.partition("@")
    try:
        # From the cache alone: what is not on this machine was not evaluated on it.
        fetched = huggingface_hub.snapshot_download(
            path, revision=revision or None, local_files_only=True, allow_patterns=["*.json", "*.safetensors"]
        )
    except LocalEntryNotFoundError as error:
        raise SpecError(
            f"{name} is neither a checkpoint's directory nor in the hub's cache on this machine, so that it was not "
            f"evaluated here; first run\n  dft-sweeps evaluate {name} --benchmarks NAME,..."
        ) from error
    return Path(fetched)


def _gradings(storage: Path, digest: str, left_out: Callable[[str], None]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every grading of these weights in a storage directory: its directory and its description."""
    named = {"weights_digest", "benchmark", "benchmark_digest", "template_digest", "sampling", "grader"}
    for path in sorted((storage / "grades").glob("g-*/result.json")):
        try:
            about: Any = json.loads(path.read_text(encoding="utf-8"))
            identity = about["identity"]
            weights = identity["weights_digest"]
        except (ValueError, TypeError, KeyError) as error:
            left_out(f"{path} is damaged and left out; whose weights it is of cannot be read: {error}")
            continue
        if weights != digest:
            continue
        if not named <= identity.keys():
            lacking = ", ".join(sorted(named - identity.keys()))
            raise CorruptEntry(path, f"not a whole description (its identity lacks {lacking})")
        yield path.parent, about


def _question_results(directory: Path, about: dict[str, Any], tell_template: bool) -> QuestionResults:
    identity = about["identity"]
    sampling = stored_sampling(identity["sampling"])
    settings = sampling.model_dump(mode="json")
    template = f", template {identity['template_digest'][:8]}" if tell_template else ""
    right = _right(directory / "verdicts.parquet", about)
    samples = {count for _, count in right.values()}
    if len(samples) != 1:
        raise CorruptEntry(directory / "verdicts.parquet", "its questions have different numbers of samples")
    return QuestionResults(
        sampling=describe(settings) + template,
        benchmark=identity["benchmark"],
        benchmark_digest=identity["benchmark_digest"],
        grader=identity["grader"],
        evaluation_id=evaluation_id(
            identity["weights_digest"], identity["benchmark_digest"], identity["template_digest"], sampling
        ),
        grade_id=directory.name,
        own=not identity["grader"].startswith("paper/"),
        samples=samples.pop(),
        questions=tuple(right),
        right=tuple(count for count, _ in right.values()),
        settings=settings,
    )


def _right(path: Path, about: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Question id to how many of its samples are right, and how many it has; in the benchmark's order."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise CorruptEntry(path, "no such file") from error
    if hashlib.sha256(content).hexdigest() != about.get("sha256"):
        raise CorruptEntry(path, f"its {len(content)} bytes are not those that were written")
    columns = tables.decode(content, {name: tables.VERDICT_COLUMNS[name] for name in ("question_id", "correct")})
    found: dict[str, tuple[int, int]] = {}
    for question, correct in zip(columns["question_id"], columns["correct"], strict=True):
        right, samples = found.get(question, (0, 0))
        found[question] = right + (correct is True), samples + 1
    return found
