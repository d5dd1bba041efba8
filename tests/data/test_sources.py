from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from dft_sweeps.data.sources import STEP_BY_STEP, Demonstration, load_demonstrations, numbered_rows
from dft_sweeps.evaluation.benchmarks import prompt_suffix
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.identity import digest
from dft_sweeps.spec.models import ArithmeticSource, FileSource, HubSource, NuminaMathSource

ROWS = [{"prompt": f"{i} + {i} = ? é", "completion": f"{2 * i}", "level": i} for i in range(5)]


def source(path: str, **fields: str) -> FileSource:
    return FileSource.model_validate({"kind": "file", "path": path} | fields)


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def jsonl(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet"])
def test_all_formats_give_the_same_demonstrations_and_digest(name: str, tmp_path: Path) -> None:
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / name)
    else:
        write(tmp_path / name, jsonl(ROWS))
    assert numbered_rows(tmp_path / name) == list(enumerate(ROWS, start=1))
    found = load_demonstrations(source(name), tmp_path)
    assert found.rows == tuple(Demonstration(row["prompt"], row["completion"]) for row in ROWS)
    assert found.digest == load_demonstrations(source(str(write(tmp_path / "b.jsonl", jsonl(ROWS)))), Path("/")).digest


def test_the_digest_is_of_what_is_trained_on_in_its_order(tmp_path: Path) -> None:
    def identity(rows: list[dict[str, Any]], **fields: str) -> str:
        write(tmp_path / "rows.jsonl", jsonl(rows))
        return load_demonstrations(source("rows.jsonl", **fields), tmp_path).digest

    original = identity(ROWS)
    assert identity([{**row, "level": "other"} for row in ROWS]) == original
    renamed = [{"q": row["prompt"], "a": row["completion"]} for row in ROWS]
    assert identity(renamed, prompt="q", completion="a") == original
    assert len({original, identity(ROWS[::-1]), identity(ROWS[1:]), identity([*ROWS[:-1], ROWS[0]])}) == 4
    rows = [[row["prompt"], row["completion"]] for row in ROWS]
    assert original == digest(rows)
    # Where one text ends and the next begins is part of it.
    assert identity([{"prompt": "ab", "completion": "c"}]) != identity([{"prompt": "a", "completion": "bc"}])


def test_a_last_line_without_newline_and_other_line_ends(tmp_path: Path) -> None:
    numbered = list(enumerate(ROWS, start=1))
    assert numbered_rows(write(tmp_path / "a.jsonl", jsonl(ROWS).rstrip("\n"))) == numbered
    assert numbered_rows(write(tmp_path / "b.jsonl", jsonl(ROWS).replace("\n", "\r\n"))) == numbered
    separator = [{"prompt": "a line\u2028separator and a \x85", "completion": "is text\n, not an end of line"}]
    assert numbered_rows(write(tmp_path / "c.jsonl", jsonl(separator))) == [(1, separator[0])]


def test_blank_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '\n{"a": 1}\n  \n\r\n{"a": 2}\n\n')
    assert numbered_rows(path) == [(2, {"a": 1}), (5, {"a": 2})]


FAULTS: dict[str, tuple[str | bytes, str]] = {
    "missing field": ('{"prompt": "a", "completion": "b"}\n\n{"prompt": "a", "answer": "b"}\n',
                      r"row 3: no field 'completion'; it has 'prompt', 'answer'$"),
    "no field at all": ("{}\n", r"row 1: no field 'prompt'; it has none$"),
    "not text": ('{"prompt": "a", "completion": 4}\n', r"row 1: field 'completion' is int, not text$"),
    "null": ('{"prompt": null, "completion": "b"}\n', r"row 1: field 'prompt' is NoneType, not text$"),
    "not an object": ('\n["a", "b"]\n', r"row 2: expected a JSON object, found list$"),
    "not JSON": ('{"prompt": "a", "completion": "b"}\n\n{"prompt": oops}\n',
                 r"row 3: not JSON \(Expecting value at column 12\)$"),
    "cut short": ('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "compl', r"row 2: not JSON \(Unterminated"),
    "not UTF-8": (b'{"prompt": "a", "completion": "b"}\n' * 5000 + b'{"prompt": "caf\xe9", "completion": "b"}\n',
                  r"row 5001: not UTF-8 text \(invalid continuation byte at byte 16 of the line\)$"),
    "byte order mark": (b'\xef\xbb\xbf{"prompt": "a", "completion": "b"}\n', r"row 1: not JSON \(Unexpected UTF-8 BOM"),
    "empty": ("", "file source has no rows"),
    "blank": ("\n \n", "file source has no rows"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_line(fault: str, tmp_path: Path) -> None:
    text, message = FAULTS[fault]
    write(tmp_path / "rows.jsonl", text)
    with pytest.raises(SpecError, match=message) as caught:
        load_demonstrations(source("rows.jsonl"), tmp_path)
    assert "rows.jsonl: row" in str(caught.value) or "no rows" in message


def test_a_fault_in_parquet_is_named_with_its_row(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with pytest.raises(SpecError, match=r"rows\.parquet: row 2: field 'completion' is NoneType, not text"):
        load_demonstrations(source("rows.parquet"), tmp_path)
    with pytest.raises(SpecError, match=r"rows\.parquet: row 1: no field 'answer'; it has 'prompt', 'completion'"):
        load_demonstrations(source("rows.parquet", completion="answer"), tmp_path)


@pytest.mark.parametrize("damage", ["text", "truncated", "page"])
def test_a_damaged_parquet_file_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table = pyarrow.Table.from_pylist([{"prompt": "a" * i, "completion": "b"} for i in range(1000)])
    pyarrow.parquet.write_table(table, path)
    whole = path.read_bytes()
    content = {"text": b"no parquet", "truncated": whole[:-100], "page": whole[:4] + b"\xff" * 500 + whole[504:]}
    write(path, content[damage])
    with pytest.raises(SpecError, match=r"rows\.parquet: not a Parquet file"):
        load_demonstrations(source("rows.parquet"), tmp_path)


def test_a_file_that_is_not_there_or_of_another_format(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no file .*nowhere\.jsonl"):
        load_demonstrations(source("nowhere.jsonl"), tmp_path)
    (tmp_path / "directory.jsonl").mkdir()
    with pytest.raises(SpecError, match=r"no file .*directory\.jsonl"):
        load_demonstrations(source("directory.jsonl"), tmp_path)
    write(tmp_path / "rows.csv", "prompt,completion\n")
    with pytest.raises(SpecError, match=r"rows\.csv: a data file ends in \.jsonl, \.json .* or \.parquet"):
        load_demonstrations(source("rows.csv"), tmp_path)


def test_the_arithmetic_source_is_seeded() -> None:
    def make(seed: int) -> Any:
        return load_demonstrations(ArithmeticSource(kind="arithmetic", samples=50, seed=seed), Path())

    assert make(0) == make(0) and len(make(0).rows) == 50
    assert make(0).digest != make(1).digest


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_dataset_is_read_by_its_id(ending: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """To `datasets`, a directory with a file of a split's name is a dataset like those of the hub."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    dataset = tmp_path / "someone" / "sums"
    dataset.mkdir(parents=True)
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), dataset / "train.parquet")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS[:2]), dataset / "test.parquet")
    else:
        write(dataset / "train.jsonl", jsonl(ROWS))
        write(dataset / "test.jsonl", jsonl(ROWS[:2]))
    hub = HubSource(kind="hub", id=str(dataset))
    found = load_demonstrations(hub, Path("/nowhere"))
    assert found.rows == tuple(Demonstration(row["prompt"], row["completion"]) for row in ROWS)
    write(tmp_path / "rows.jsonl", jsonl(ROWS))
    assert found.digest == load_demonstrations(source("rows.jsonl"), tmp_path).digest
    assert len(load_demonstrations(hub.model_copy(update={"split": "test"}), tmp_path).rows) == 2
    with pytest.raises(SpecError, match=r"sums: row 1: no field 'answer'; it has 'prompt', 'completion', 'level'"):
        load_demonstrations(hub.model_copy(update={"completion": "answer"}), tmp_path)


def test_a_dataset_that_cannot_be_fetched_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub = HubSource(kind="hub", id="someone/some-dataset")
    with pytest.raises(SpecError, match=r"dataset 'someone/some-dataset' \(split 'train'\) cannot be loaded: "):
        load_demonstrations(hub, tmp_path)


def test_an_instruction_follows_every_prompt_and_is_in_the_digest(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", jsonl(ROWS))
    plain = load_demonstrations(source("rows.jsonl"), tmp_path)
    asked = load_demonstrations(source("rows.jsonl"), tmp_path, "\nThink.")
    assert asked.rows == tuple(Demonstration(f"{row.prompt}\nThink.", row.completion) for row in plain.rows)
    assert load_demonstrations(source("rows.jsonl"), tmp_path, "") == plain
    inside = [{**row, "prompt": f"{row['prompt']}\nThink."} for row in ROWS]
    write(tmp_path / "inside.jsonl", jsonl(inside))
    assert load_demonstrations(source("inside.jsonl"), tmp_path).digest == asked.digest != plain.digest


NUMINA = [{"source": "aops", "problem": f"Find {i}.", "solution": f"\\boxed{{{i}}}", "messages": []} for i in range(4)]


def numina(**fields: str) -> NuminaMathSource:
    return NuminaMathSource.model_validate({"kind": "numinamath_cot"} | fields)


@pytest.mark.parametrize("name", ["numina.jsonl", "numina.parquet"])
def test_numinamath_is_asked_what_the_benchmarks_ask(name: str, tmp_path: Path) -> None:
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(NUMINA), tmp_path / name)
    else:
        write(tmp_path / name, jsonl(NUMINA))
    found = load_demonstrations(numina(path=name), tmp_path)
    assert found.rows[3] == Demonstration("Find 3." + STEP_BY_STEP, "\\boxed{3}")
    assert {prompt_suffix(benchmark) for benchmark in ("amc23", "gsm8k")} == {STEP_BY_STEP}
    published = load_demonstrations(numina(path=name), tmp_path, "")
    assert [row.prompt for row in published.rows] == [row["problem"] for row in NUMINA]
    plain = source(name, prompt="problem", completion="solution")
    assert load_demonstrations(plain, tmp_path) == published
    assert load_demonstrations(plain, tmp_path, STEP_BY_STEP) == found


def test_numinamath_lies_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def read(*arguments: Any) -> list[dict[str, Any]]:
        asked.append(arguments)
        return NUMINA

    monkeypatch.setattr("dft_sweeps.data.sources.read_hub_rows", read)
    found = load_demonstrations(numina(revision="main"), tmp_path)
    assert asked == [("AI-MO/NuminaMath-CoT", None, "main", "train", ("problem", "solution"))]
    assert len(found.rows) == 4
    write(tmp_path / "empty.jsonl", "")
    with pytest.raises(SpecError, match="numinamath_cot source has no rows"):
        load_demonstrations(numina(path="empty.jsonl"), tmp_path)
    write(tmp_path / "other.jsonl", jsonl(ROWS))
    with pytest.raises(SpecError, match=r"row 1: no field 'problem'; it has 'prompt', 'completion', 'level'"):
        load_demonstrations(numina(path="other.jsonl"), tmp_path)
