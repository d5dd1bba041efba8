"""Sources of demonstrations: a JSON-lines or Parquet file, a Hugging Face dataset, or the embedded generator."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.identity import canonical_json
from dft_sweeps.spec.models import ArithmeticSource, FileSource, HubSource, NuminaMathSource, Source

NUMINAMATH = "AI-MO/NuminaMath-CoT"
STEP_BY_STEP = "\nPlease reason step by step, and put your final answer within \\boxed{}."
"""NuminaMath-CoT's instruction: its solutions end so, and it is what the mathematics benchmarks ask."""


@dataclass(frozen=True)
class Demonstration:
    prompt: str
    completion: str


@dataclass(frozen=True)
class Demonstrations:
    rows: tuple[Demonstration, ...]
    digest: str
    """Hash of the rows in their order: the identity of the data, wherever it lies."""


def numbered_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Rows of a JSON-lines (`.jsonl`, `.json`) or Parquet file, each with its number from 1.

    The number of a row in JSON lines is its line's; blank lines are skipped, but count.

    Raises:
        SpecError: no such file, another format, or a line that is not a JSON object (its number is named).
    """
    if not path.is_file():
        raise SpecError(f"no file {path}")
    if path.suffix == ".parquet":
        return list(enumerate(_read_parquet(path), start=1))
    if path.suffix not in {".jsonl", ".json"}:
        raise SpecError(f"{path}: a data file ends in .jsonl, .json (one object per line) or .parquet")
    return list(json_lines(path))


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a JSON-lines file one after the other, numbered as in `numbered_rows`; errors come with their rows."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _parse_line(line, f"{path}: row {number}")


def _parse_line(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise SpecError(f"not UTF-8 text ({error.reason} at byte {error.start + 1} of the line)", where) from error
    except json.JSONDecodeError as error:
        raise SpecError(f"not JSON ({error.msg} at column {error.colno})", where) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or thousands of brackets
        raise SpecError(f"JSON that cannot be read ({error})", where) from error
    if not isinstance(row, dict):
        raise SpecError(f"expected a JSON object, found {type(row).__name__}", where)
    return row


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise SpecError(f"{path}: not a Parquet file ({error})") from error


def instruction_of(source: Source, instruction: str | None) -> str:
    """What is appended to every prompt: `instruction`, or, where that is None, the source's own."""
    if instruction is None:
        return STEP_BY_STEP if isinstance(source, NuminaMathSource) else ""
    return instruction


def load_demonstrations(source: Source, base_directory: Path, instruction: str | None = None) -> Demonstrations:
    """Reads a source. Relative paths start at `base_directory`.

    Raises:
        SpecError: the source cannot be read, is empty, or a row lacks a field (its number is named).
    """
    suffix = instruction_of(source, instruction)
    rows = [Demonstration(prompt + suffix, completion) for prompt, completion in _pairs(source, base_directory)]
    if not rows:
        raise SpecError(f"{source.kind} source has no rows")
    return Demonstrations(tuple(rows), _digest(rows))


def _pairs(source: Source, base_directory: Path) -> Iterable[tuple[str, str]]:
    if isinstance(source, ArithmeticSource):
        from dft_sweeps.data.arithmetic import demonstrations

        return demonstrations(source.levels, source.samples, source.wrong_steps, source.seed)
    if isinstance(source, NuminaMathSource):
        return _pairs(_as_plain(source), base_directory)
    fields = source.prompt, source.completion
    if isinstance(source, FileSource):
        path = base_directory / os.path.expanduser(source.path)
        return _text_fields(numbered_rows(path), fields, str(path))
    read = read_hub_rows(source.id, source.name, source.revision, source.split, fields)
    return _text_fields(enumerate(read, start=1), fields, f"dataset {source.id}")


def _as_plain(source: NuminaMathSource) -> FileSource | HubSource:
    if source.path is not None:
        return FileSource(kind="file", path=source.path, prompt="problem", completion="solution")
    return HubSource(kind="hub", id=NUMINAMATH, revision=source.revision, prompt="problem", completion="solution")


def _digest(rows: Iterable[Demonstration]) -> str:
    """Hash of the rows in their order: that of their canonical JSON, of which only one row is made at a time."""
    total = hashlib.sha256()
    for index, row in enumerate(rows):
        total.update(("," if index else "[").encode() + canonical_json([row.prompt, row.completion]).encode())
    total.update(b"]")
    return total.hexdigest()


def read_hub_rows(
    id_: str, name: str | None, revision: str | None, split: str, fields: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Rows of a Hugging Face dataset, from the local cache where it is there.

    Args:
        fields: read only these, where the dataset has all of them.

    Raises:
        SpecError: the hub cannot be reached, or has no such dataset, configuration or split.
    """
    import datasets

    for logger in ("datasets", "huggingface_hub"):  # each retry of theirs is a line; the error below says it once
        logging.getLogger(logger).setLevel(logging.ERROR)
    try:
        dataset = datasets.load_dataset(id_, name, revision=revision, split=split)
        if fields and set(fields) <= set(dataset.column_names):
            dataset = dataset.select_columns(list(fields))
        return dataset.to_list()
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError(f"dataset {id_!r} (split {split!r}) cannot be loaded: {reason}") from error


def _text_fields(
    rows: Iterable[tuple[int, dict[str, Any]]], fields: tuple[str, str], where: str
) -> Iterator[tuple[str, str]]:
    prompt, completion = fields
    for number, row in rows:
        place = f"{where}: row {number}"
        yield _text_field(row, prompt, place), _text_field(row, completion, place)


def _text_field(row: dict[str, Any], field: str, where: str) -> str:
    if field not in row:
        raise SpecError(f"no field {field!r}; it has {', '.join(map(repr, row)) or 'none'}", where)
    if not isinstance(row[field], str):
        raise SpecError(f"field {field!r} is {type(row[field]).__name__}, not text", where)
    return row[field]
