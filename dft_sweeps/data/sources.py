"""Sources of demonstrations: a JSON-lines or Parquet file, a Hugging Face dataset, or the embedded generator."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.identity import digest
from dft_sweeps.spec.models import ArithmeticSource, FileSource, HubSource


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
    with path.open("rb") as lines:
        return [
            (number, _parse_line(line, f"{path}: row {number}"))
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]


def _parse_line(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise SpecError(f"not UTF-8 text ({error.reason} at byte {error.start + 1} of the line)", where) from error
    except json.JSONDecodeError as error:
        raise SpecError(f"not JSON ({error.msg} at column {error.colno})", where) from error
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


def load_demonstrations(source: ArithmeticSource | FileSource | HubSource, base_directory: Path) -> Demonstrations:
    """Reads a source. Relative paths start at `base_directory`.

    Raises:
        SpecError: the source cannot be read, is empty, or a row lacks a field (its number is named).
    """
    if isinstance(source, ArithmeticSource):
        from dft_sweeps.data.arithmetic import demonstrations

        pairs = demonstrations(source.levels, source.samples, source.wrong_steps, source.seed)
        rows = [Demonstration(*pair) for pair in pairs]
    elif isinstance(source, FileSource):
        path = base_directory / Path(source.path).expanduser()
        rows = _demonstrations(numbered_rows(path), source.prompt, source.completion, str(path))
    else:
        read = read_hub_rows(source.id, source.name, source.revision, source.split)
        rows = _demonstrations(list(enumerate(read, start=1)), source.prompt, source.completion, f"dataset {source.id}")
    if not rows:
        raise SpecError(f"{source.kind} source has no rows")
    return Demonstrations(tuple(rows), digest([[row.prompt, row.completion] for row in rows]))


def read_hub_rows(id_: str, name: str | None, revision: str | None, split: str) -> list[dict[str, Any]]:
    """Rows of a Hugging Face dataset, from the local cache where it is there.

    Raises:
        SpecError: the hub cannot be reached, or has no such dataset, configuration or split.
    """
    import datasets

    for logger in ("datasets", "huggingface_hub"):  # each retry of theirs is a line; the error below says it once
        logging.getLogger(logger).setLevel(logging.ERROR)
    try:
        return datasets.load_dataset(id_, name, revision=revision, split=split).to_list()
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError(f"dataset {id_!r} (split {split!r}) cannot be loaded: {reason}") from error


def _demonstrations(
    rows: list[tuple[int, dict[str, Any]]], prompt: str, completion: str, where: str
) -> list[Demonstration]:
    return [
        Demonstration(
            _text_field(row, prompt, f"{where}: row {number}"), _text_field(row, completion, f"{where}: row {number}")
        )
        for number, row in rows
    ]


def _text_field(row: dict[str, Any], field: str, where: str) -> str:
    if field not in row:
        raise SpecError(f"no field {field!r}; it has {', '.join(map(repr, row)) or 'none'}", where)
    if not isinstance(row[field], str):
        raise SpecError(f"field {field!r} is {type(row[field]).__name__}, not text", where)
    return row[field]
