"""The same questions for both evaluations: a benchmark for ours, and a task of lm-eval-harness that asks them alike."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from dft_sweeps.evaluation.benchmarks import Benchmark, load_benchmark
from dft_sweeps.spec.models import BenchmarkSpec, SamplingSpec

GSM8K_TEST = Path(__file__).parents[3] / "shared" / "data" / "benchmarks" / "gsm8k.jsonl"

_UTILS = '''\
def mean_right(doc, results):
    """Share of a question's samples whose box holds the answer; commas and dollar signs do not count."""
    answers = [each.replace(",", "").replace("$", "").strip() for each in results[0]]
    return {"right": [answer == doc["answer"] for answer in answers]}


def mean(items):
    return sum(map(sum, items)) / sum(map(len, items))
'''


def benchmark_of(fields: dict[str, Any]) -> Benchmark:
    """A shipped benchmark; `fields` are those of BenchmarkSpec, a path absolute."""
    return load_benchmark(BenchmarkSpec(**fields), Path())


def sampling_of(fields: dict[str, Any]) -> SamplingSpec:
    return SamplingSpec(**fields)


LAST_BOX = r"\\boxed\{([^{}]*)\}"


def boxed_right(text: str, answer: str) -> bool:
    """The verdict of the task below, for both sides: graders are not what is compared."""
    boxes = re.findall(LAST_BOX, text)
    return bool(boxes) and boxes[-1].replace(",", "").replace("$", "").strip() == answer.replace(",", "")


def write_task(benchmark: Benchmark, sampling: SamplingSpec, directory: Path) -> str:
    """Writes a task for lm-eval-harness that asks and samples as ours, and gives its name.

    The prompt is the benchmark's user turn under the tokenizer's chat template. A sample is right if its last box holds
    the answer. No seed is set: the harness has one for all samples of a question, which would make them the same.
    """
    name = f"local_{benchmark.name}"
    rows = [{"prompt": each.prompt_text, "answer": each.answer.replace(",", "")} for each in benchmark.questions]
    data = directory / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        "repeats": sampling.samples,
        "num_fewshot": 0,
        "generation_kwargs": {
            "until": [],
            "do_sample": sampling.temperature > 0,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_gen_toks": sampling.max_new_tokens,
        },
        "filter_list": [
            {
                "name": "boxed",
                "filter": [
                    {"function": "regex", "regex_pattern": LAST_BOX, "group_select": -1},
                    {"function": "take_first_k", "k": sampling.samples},
                ],
            }
        ],
        "metadata": {"version": 1.0},
    }
    functions = (
        "process_results: !function bench_utils.mean_right\n"
        "metric_list:\n  - metric: right\n    aggregation: !function bench_utils.mean\n    higher_is_better: true\n"
    )
    (directory / f"{name}.yaml").write_text(yaml.safe_dump(task, sort_keys=False) + functions)
    (directory / "bench_utils.py").write_text(_UTILS)
    return name
