"""What the options of `dft-sweeps evaluate` come to, checked by the models of the spec: the same words for the same
mistakes, with the option that they are in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from dft_sweeps.evaluation.benchmarks import Benchmark, load_benchmark
from dft_sweeps.orchestration.standalone import Candidate, read_candidate
from dft_sweeps.spec import schema
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import EvaluationSpec, PoolSpec, SpecModel

Model = TypeVar("Model", bound=SpecModel)

_OF_SAMPLING = ("samples", "temperature", "top_p", "max_new_tokens", "seed")
_OF_POOL = ("replicas", "cpus_per_engine", "gpus_per_engine", "dtype", "max_model_len")
_OPTIONS = (*_OF_SAMPLING, *_OF_POOL, "benchmarks", "limit", "adaptive", "template")
_IN_OPTIONS = (
    ("evaluation.template", "--template"),
    ("pool.max_model_len", "--max-model-len"),
    ("{name: ", "--benchmarks "),
    (", path: FILE.jsonl}", "=FILE.jsonl"),
)
"""What messages say of a spec, and how it is said on the command line."""


def evaluation_spec(options: Mapping[str, Any]) -> EvaluationSpec:
    """The evaluation that the options ask for.

    Raises:
        SpecError: a value that no spec may have; names the option.
    """
    sampling = {name: options[name] for name in _OF_SAMPLING}
    if options["adaptive"] is not None:
        sampling["adaptive"] = {"half_width": options["adaptive"]}
    greedy = {"temperature": 0.0, "max_new_tokens": options["max_new_tokens"]}
    samplings = {"sampled": sampling, "greedy": greedy} if options["greedy"] else {"sampled": sampling}
    if options["temperature"] == 0:
        samplings = {"greedy": sampling}
    return _validated(
        EvaluationSpec,
        {
            "benchmarks": [_benchmark(each, options["limit"]) for each in _parts(options["benchmarks"])],
            "samplings": samplings,
            "template": options["template"],
        },
    )


def _parts(lists: Sequence[str]) -> list[str]:
    return [part.strip() for each in lists for part in each.split(",") if part.strip()]


def _benchmark(text: str, limit: int | None) -> dict[str, Any]:
    name, given, path = text.partition("=")
    return {"name": name, "limit": limit} | ({"path": path} if given else {})


def pool_spec(options: Mapping[str, Any]) -> PoolSpec:
    """The engines that the options ask for. Raises SpecError, which names the option."""
    return _validated(PoolSpec, {name: options[name] for name in _OF_POOL if options[name] is not None})


def _validated(model: type[Model], data: dict[str, Any]) -> Model:
    try:
        return schema.validate(model, data)
    except ValidationError as error:
        [(path, message), *_] = schema.messages(error, model, data)
        named = [element for element in reversed(path) if element in _OPTIONS]
        # What is wrong with a sampling as a whole is how many samples are asked for.
        raise SpecError(message, _option(str(named[0]) if named else "samples")) from error


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def read_benchmarks(evaluation: EvaluationSpec) -> dict[str, Benchmark]:
    """Benchmarks by name; files lie relative to the current directory. Raises SpecError."""
    with _in_options("--benchmarks"):
        return {spec.name: load_benchmark(spec, Path.cwd()) for spec in evaluation.benchmarks}


def read_candidates(
    names: Sequence[str],
    evaluation: EvaluationSpec,
    benchmarks: Mapping[str, Benchmark],
    max_model_len: int | None,
    dtype: str,
) -> list[Candidate]:
    """The checkpoints, found and checked; relative directories start at the current one. Raises SpecError."""
    found = []
    for name in names:
        with _in_options(name):
            found.append(read_candidate(name, evaluation, benchmarks, max_model_len, Path.cwd(), dtype))
    return found


@contextmanager
def _in_options(where: str) -> Iterator[None]:
    """A mistake or an unreadable file met inside the block is one line about `where`, in terms of the options."""
    try:
        yield
    except (SpecError, OSError) as error:
        message = " ".join(str(error).split())
        for of_spec, of_option in _IN_OPTIONS:
            message = message.replace(of_spec, of_option)
        raise SpecError(message, where) from error
