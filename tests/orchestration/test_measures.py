"""What the points of a sweep mean beside the spec's evaluation: what engines compute in, and where answers end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.evaluation.benchmarks import load_benchmark
from dft_sweeps.evaluation.results import stored_sampling
from dft_sweeps.orchestration.measures import in_context, measures_of
from dft_sweeps.spec.identity import evaluation_id
from dft_sweeps.spec.models import EvaluationSpec, SamplingSpec
from dft_sweeps.training.model_files import EMBEDDED

EVALUATION = EvaluationSpec.model_validate({"benchmarks": ["arithmetic_1"]})
SAMPLING = SamplingSpec(samples=4, max_new_tokens=64)


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts(AutoTokenizer.from_pretrained(EMBEDDED))


def measures(prompts: Prompts, dtype: str = "float32", ends: tuple[int, ...] = (2,)) -> str:
    benchmarks = {spec.name: load_benchmark(spec, Path()) for spec in EVALUATION.benchmarks}
    return measures_of(EVALUATION, benchmarks, prompts, 4096, dtype, ends)


def test_what_engines_compute_in_and_where_answers_end_change_the_measures(prompts: Prompts) -> None:
    assert prompts.stop_token_ids == (2,)
    assert measures(prompts, ends=()) == measures(prompts)
    others = [measures(prompts, "bfloat16"), measures(prompts, ends=(2, 5)), measures(prompts, ends=(6,))]
    assert len({measures(prompts), *others}) == 4


def test_bfloat16_is_part_of_how_is_sampled_and_float32_is_as_ever() -> None:
    def id_(sampling: SamplingSpec) -> str:
        return evaluation_id("w", "b", "t", sampling)

    plain, coarse = (in_context(SAMPLING, 4096, dtype) for dtype in ("float32", "bfloat16"))
    assert plain == SAMPLING.model_copy(update={"context": 4096})
    assert id_(coarse) != id_(plain)
    for sampling in (plain, coarse, coarse.model_copy(update={"context": None})):
        stated: dict[str, Any] = sampling.model_dump(mode="json", exclude_defaults=True)
        assert stored_sampling(stated) == sampling
    with pytest.raises(ValueError, match="dtype"):
        SamplingSpec.model_validate({"dtype": "bfloat16"})  # the pool's to choose, not a sampling's
