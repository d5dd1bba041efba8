"""Completions and verdicts as Parquet tables, and back."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dft_sweeps.evaluation.grading import Verdict
from dft_sweeps.evaluation.results import CompletionRow, GradedQuestion, GradedSample

if TYPE_CHECKING:
    import pyarrow

COMPLETION_COLUMNS = {
    "question_id": "string",
    "sample": "int32",
    "seed": "int64",
    "prompt_hash": "string",
    "text": "string",
    "token_ids": "list<int32>",
    "logprobs": "list<float64>",
    "finish_reason": "string",
    "tokens": "int32",
    "weights_digest": "string",
}
VERDICT_COLUMNS = {
    "question_id": "string",
    "sample": "int32",
    "answer": "string",
    "correct": "bool",
    "extracted": "string",
    "reason": "string",
    "finish_reason": "string",
    "tokens": "int32",
}

Columns = dict[str, list[Any]]


def completion_columns(rows: Sequence[CompletionRow], weights_digest: str) -> Columns:
    """Columns of `COMPLETION_COLUMNS`, in the rows' order."""
    return {
        "question_id": [row.question_id for row in rows],
        "sample": [row.sample for row in rows],
        "seed": [row.seed for row in rows],
        "prompt_hash": [row.prompt_hash for row in rows],
        "text": [row.text for row in rows],
        "token_ids": [row.token_ids for row in rows],
        "logprobs": [row.logprobs for row in rows],
        "finish_reason": [row.finish_reason for row in rows],
        "tokens": [len(row.token_ids) for row in rows],
        "weights_digest": [weights_digest] * len(rows),
    }


def completion_rows(columns: Columns) -> tuple[CompletionRow, ...]:
    """The inverse of `completion_columns`."""
    names = [name for name in COMPLETION_COLUMNS if name not in ("tokens", "weights_digest")]
    rows = zip(*(columns[name] for name in names), strict=True)
    records = (dict(zip(names, row, strict=True)) for row in rows)
    return tuple(
        CompletionRow(**record | {"token_ids": tuple(record["token_ids"]), "logprobs": tuple(record["logprobs"])})
        for record in records
    )


def verdict_columns(questions: Sequence[GradedQuestion]) -> Columns:
    """Columns of `VERDICT_COLUMNS`, questions in their order, then samples."""
    rows = [(question, k, sample) for question in questions for k, sample in enumerate(question.samples)]
    return {
        "question_id": [question.question_id for question, _, _ in rows],
        "sample": [k for _, k, _ in rows],
        "answer": [question.answer for question, _, _ in rows],
        "correct": [sample.verdict.correct for _, _, sample in rows],
        "extracted": [sample.verdict.extracted for _, _, sample in rows],
        "reason": [sample.verdict.reason for _, _, sample in rows],
        "finish_reason": [sample.finish_reason for _, _, sample in rows],
        "tokens": [sample.tokens for _, _, sample in rows],
    }


def graded_questions(columns: Columns, samples: int) -> tuple[GradedQuestion, ...]:
    """The inverse of `verdict_columns`, with `samples` rows per question."""
    verdicts = map(Verdict, columns["correct"], columns["extracted"], columns["reason"])
    graded = list(map(GradedSample, verdicts, columns["finish_reason"], columns["tokens"]))
    return tuple(
        GradedQuestion(columns["question_id"][at], columns["answer"][at], tuple(graded[at : at + samples]))
        for at in range(0, len(graded), samples)
    )


def encode(columns: Columns, types: dict[str, str]) -> bytes:
    """Columns as a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({name: pyarrow.array(columns[name], _type(type_)) for name, type_ in types.items()})
    content = io.BytesIO()
    pyarrow.parquet.write_table(table, content, compression="zstd")
    return content.getvalue()


def decode(content: bytes, types: dict[str, str]) -> Columns:
    """The inverse of `encode`."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(io.BytesIO(content))
    return {name: table.column(name).to_pylist() for name in types}


def _type(name: str) -> pyarrow.DataType:
    import pyarrow

    if name.startswith("list<"):
        return pyarrow.list_(pyarrow.type_for_alias(name[len("list<") : -1]))
    return pyarrow.type_for_alias(name)
