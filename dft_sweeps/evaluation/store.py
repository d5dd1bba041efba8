"""Results on storage, by identity: completions by evaluation id, verdicts by grade id.

    <root>/evaluations/<evaluation_id>/completions.parquet, evaluation.json
    <root>/grades/<grade_id>/verdicts.parquet, result.json

An entry is written beside its place and renamed into it, so it is whole or absent; of two writers the first
wins. Its JSON file holds the identity and the table's SHA-256. Reading compares both with what is asked for,
and the rows with the questions. An entry that does not fit raises CorruptEntry with its path and is never
used; deleting it is the way to evaluate again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from dft_sweeps.data.durable import flush
from dft_sweeps.evaluation import tables
from dft_sweeps.evaluation.adaptive import looks
from dft_sweeps.evaluation.benchmarks import Benchmark
from dft_sweeps.evaluation.evaluate import grade, prompt_hash, question_seed
from dft_sweeps.evaluation.grading import GraderPool, grader_version
from dft_sweeps.evaluation.intervals import Interval
from dft_sweeps.evaluation.results import BenchmarkResult, Completions, EvaluationKey, Judgements
from dft_sweeps.spec.identity import grade_id


class CorruptEntry(ValueError):
    """A stored entry that is damaged or belongs to another evaluation; its message names the path."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}; it is not used, delete {path.parent} to evaluate again")


class EvaluationStore:
    """Evaluations below a root directory, shared by everyone who can reach it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def save_completions(self, completions: Completions) -> Path:
        """Keeps completions and returns their directory."""
        key = completions.key
        columns = tables.completion_columns(completions.rows, key.weights_digest)
        table = tables.encode(columns, tables.COMPLETION_COLUMNS)
        about = {"identity": _identity(key), "sha256": _sha256(table)}
        return _commit(self._evaluation(key), {"completions.parquet": table, "evaluation.json": _json(about)})

    def load_completions(self, key: EvaluationKey, benchmark: Benchmark) -> Completions | None:
        """The completions of an evaluation, or None where there are none.

        Raises:
            CorruptEntry: they are damaged, incomplete or those of another evaluation.
        """
        directory = self._evaluation(key)
        if not directory.exists():
            return None
        about = _read_about(directory / "evaluation.json", _identity(key))
        path = directory / "completions.parquet"
        rows = tables.completion_rows(tables.decode(_read_table(path, about), tables.COMPLETION_COLUMNS))
        found = [(row.question_id, row.sample, row.seed, row.prompt_hash) for row in rows]
        if found != _expected_rows(key, benchmark, len(rows)):
            raise CorruptEntry(path, "its rows are not this benchmark's questions and samples")
        return Completions(key, rows)

    def save(self, result: BenchmarkResult) -> Path:
        """Keeps verdicts with a summary and returns their directory."""
        table = tables.encode(tables.verdict_columns(result.questions), tables.VERDICT_COLUMNS)
        about = {
            "identity": _identity(result.key, result.grader),
            "limited": result.limited,
            "sha256": _sha256(table),
            "counts": _counts(result),
            "interval": _bounds(result.interval),
            "fixed_interval": _bounds(result.fixed_interval),
            "pass_at_k": result.pass_at_k,
            "majority_at_k": result.majority_at_k,
        }
        directory = self._grade(result.key, result.grader)
        return _commit(directory, {"verdicts.parquet": table, "result.json": _json(about)})

    def load(self, key: EvaluationKey, benchmark: Benchmark, grader: str | None = None) -> BenchmarkResult | None:
        """The verdicts of a grader's present version, or None where there are none; by default the benchmark's own's.

        Raises:
            CorruptEntry: they are damaged, incomplete or those of another evaluation.
        """
        grader = grader_version(grader or benchmark.grader)
        directory = self._grade(key, grader)
        if not directory.exists():
            return None
        about = _read_about(directory / "result.json", _identity(key, grader))
        path = directory / "verdicts.parquet"
        columns = tables.decode(_read_table(path, about), tables.VERDICT_COLUMNS)
        found = list(zip(columns["question_id"], columns["sample"], strict=True))
        if found != [row[:2] for row in _expected_rows(key, benchmark, len(found))]:
            raise CorruptEntry(path, "its rows are not this benchmark's questions and samples")
        questions = tables.graded_questions(columns, len(found) // len(benchmark.questions))
        result = BenchmarkResult(key, grader, benchmark.limited, questions)
        if about.get("counts") != _counts(result):
            raise CorruptEntry(directory / "result.json", "its counts disagree with the verdicts beside it")
        return result

    def knows(self, key: EvaluationKey, benchmark: Benchmark) -> bool:
        """Whether nothing need be generated to have the verdicts of all the benchmark's graders."""
        grades = (self._grade(key, grader_version(grader)) for grader in benchmark.graders)
        return self._evaluation(key).exists() or all(grade.exists() for grade in grades)

    def load_or_regrade(self, key: EvaluationKey, benchmark: Benchmark, graders: GraderPool) -> Judgements | None:
        """What is known without generating, by each of the benchmark's graders: stored verdicts, or else new ones on
        stored completions, which are then stored; None where these are needed and absent.

        Raises:
            CorruptEntry: what is stored is damaged, incomplete or of another evaluation.
        """
        stored = {grader: self.load(key, benchmark, grader) for grader in benchmark.graders}
        known = {grader: result for grader, result in stored.items() if result is not None}
        if len(known) == len(stored):
            return known
        completions = self.load_completions(key, benchmark)
        if completions is None:
            return None
        for grader in stored.keys() - known.keys():
            known[grader] = grade(completions, benchmark, graders, grader)
            self.save(known[grader])
        return {grader: known[grader] for grader in benchmark.graders}

    def _evaluation(self, key: EvaluationKey) -> Path:
        return self.root / "evaluations" / key.id

    def _grade(self, key: EvaluationKey, grader: str) -> Path:
        return self.root / "grades" / grade_id(key.id, grader)


def _identity(key: EvaluationKey, grader: str | None = None) -> dict[str, Any]:
    """What an entry is compared by. Fields at their defaults are left out, as in the ids."""
    identity = {
        "weights_digest": key.weights_digest,
        "benchmark": key.benchmark,
        "benchmark_digest": key.benchmark_digest,
        "template_digest": key.template_digest,
        "sampling": key.sampling.model_dump(mode="json", exclude_defaults=True),
    }
    return identity if grader is None else identity | {"grader": grader}


def _bounds(interval: Interval) -> dict[str, Any]:
    return {"low": interval.low, "high": interval.high, "method": interval.method}


def _expected_rows(key: EvaluationKey, benchmark: Benchmark, count: int) -> list[tuple[str, int, int, str]]:
    """(question id, sample, seed, prompt hash) of every completion, in the order of an entry's rows, where adaptive
    sampling that ended with `count` completions is whole."""
    rows, samples = [], key.sampling.samples
    if key.sampling.adaptive is not None and count // len(benchmark.questions) in looks(samples):
        samples = count // len(benchmark.questions)
    for question in benchmark.questions:
        seed, hashed = question_seed(key.benchmark, question.id, key.sampling.seed), prompt_hash(question)
        rows += [(question.id, sample, seed + sample, hashed) for sample in range(samples)]
    return rows


def _read_about(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """An entry's JSON file, once its identity is the one asked for."""
    try:
        about: Any = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise CorruptEntry(path, f"not a whole description ({error})") from error
    stored = about.get("identity") if isinstance(about, dict) else None
    if not isinstance(stored, dict):
        raise CorruptEntry(path, "it names no identity")
    for field, value in identity.items():
        if stored.get(field) != value:
            raise CorruptEntry(path, f"its {field} is {stored.get(field)!r}, not {value!r}")
    return dict(about)


def _read_table(path: Path, about: dict[str, Any]) -> bytes:
    """The bytes of an entry's table, once they are those that were written."""
    try:
        table = path.read_bytes()
    except FileNotFoundError as error:
        raise CorruptEntry(path, "no such file") from error
    if _sha256(table) != about.get("sha256"):
        raise CorruptEntry(path, f"its {len(table)} bytes are not those that were written")
    return table


def _counts(result: BenchmarkResult) -> dict[str, Any]:
    """The part of a summary that follows from the verdicts alone, whatever the interval's method."""
    return {
        "questions": len(result.questions),
        "samples": result.samples,
        "accuracy": result.accuracy,
        "truncated": result.truncated,
        "no_answer": result.no_answer,
        "ungradable": result.ungradable,
        "tokens": result.tokens,
    }


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _commit(directory: Path, files: dict[str, bytes]) -> Path:
    """Writes files into a temporary directory and renames it to `directory`, unless that is there already."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.parent / f".writing-{directory.name}-{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
            flush(temporary / name)
        flush(temporary)
        _rename_if_absent(temporary, directory)
        flush(directory.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return directory


def _rename_if_absent(temporary: Path, directory: Path) -> None:
    try:
        temporary.rename(directory)
    except OSError:
        # Another writer came first: renaming onto a directory that has files in it fails.
        if not directory.is_dir():
            raise
