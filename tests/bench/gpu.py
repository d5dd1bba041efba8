"""Rows on training throughput on a GPU: Qwen2.5-1.5B's shape from random weights, bf16, micro-batches of 16k tokens.

Ours needs torch and transformers alone. The peers are TRL's SFTTrainer with its own head, without and with Liger's
kernels for the layers (TRL 1.16 refuses Liger's head, which the rows on the head measure). One side is in memory at a
time, so sides follow one another. The samples are digits, one token each, in lengths like those of solutions to
problems: no data is needed, and no tokenizer of 151,936 tokens.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

import torch

from dft_sweeps.data.encode import Sample
from dft_sweeps.data.sources import Demonstration
from tests.bench.row import Machine, Row, installed_versions
from tests.bench.throughput import disagreement
from tests.bench.worker import Worker, WorkerEnded
from tests.bench.workload import Shape, shipped_tokenizer, write_model, write_samples

QWEN_1_5B = Shape(
    suffix="",
    description="Qwen2.5-1.5B's shape (28 layers, width 1,536, tied head, V = 151,936), random weights",
    qwen2={
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
)
COUNT, MEDIAN_LENGTH, SPREAD = 128, 420, 0.6
"""Samples, and their log-normal lengths in tokens: about 500 in the mean."""
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16, by what the device's name contains."""
TARGET_UTILISATION = 0.5


def rows(machine: Machine) -> Iterator[Row]:
    trl = f'TRL {installed_versions()["trl"]} SFTTrainer(loss_type="dft")'
    base = {"detail": f"{QWEN_1_5B.description}; bfloat16 compute, float32 weights"}
    speed = base | {"unit": "tokens/s"}
    drafts = {
        "ours": base | {"name": "gpu_dft_mfu", "peer_name": "the target", "unit": "share of the peak FLOP/s"},
        "trl": speed | {"name": "gpu_dft_tokens_per_second_vs_trl", "peer_name": f"{trl}, its own head"},
        "liger": speed | {"name": "gpu_dft_tokens_per_second_vs_trl_liger", "peer_name": f"{trl}, Liger's layers"},
    }
    if not torch.cuda.is_available():
        yield from (Row(**draft, not_run="this machine has no CUDA GPU") for draft in drafts.values())
        return
    with tempfile.TemporaryDirectory() as directory:
        samples = prepare(Path(directory))
        found = {side: measured(side, Path(directory), samples, machine) for side in drafts}
    for side, draft in drafts.items():
        yield row_of(draft, side, found, samples)


def prepare(directory: Path) -> list[Sample]:
    tokenizer = shipped_tokenizer()
    write_model(QWEN_1_5B, tokenizer, directory)
    return write_samples(digits(COUNT), tokenizer, directory)


def digits(count: int) -> list[Demonstration]:
    """Samples of random digits at the quantiles of a log-normal distribution of lengths, a quarter of each prompt."""
    draw = random.Random(0)
    lengths = [MEDIAN_LENGTH * 2.718281828 ** (SPREAD * NormalDist().inv_cdf((i + 0.5) / count)) for i in range(count)]
    draw.shuffle(lengths)
    texts = ["".join(draw.choices("0123456789", k=max(8, min(2048, round(length))))) for length in lengths]
    return [Demonstration(text[: len(text) // 4], text[len(text) // 4 :]) for text in texts]


def options(side: str, tokens: int, longest: int) -> dict[str, Any]:
    """Of a side: ours, or TRL's with or without Liger. Packed where FlashAttention keeps samples apart at no cost."""
    if side == "ours":
        return {"device": "cuda", "dtype": "bfloat16", "micro_batch_tokens": tokens}
    from transformers.utils import is_flash_attn_2_available

    fast = {
        "bf16": True,
        "gradient_checkpointing": False,
        "logging_strategy": "no",
        "use_liger_kernel": side == "liger",
    }
    if is_flash_attn_2_available():
        return fast | {"packing": True, "max_length": tokens, "attention": "flash_attention_2"}
    size = max(size for size in (1, 2, 4, 8, 16, 32) if size * longest <= tokens)
    return fast | {
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": COUNT // size,
        "train_sampling_strategy": "group_by_length",
    }


def measured(side: str, directory: Path, samples: Sequence[Sample], machine: Machine) -> dict[str, Any] | str:
    """Seconds by round, the first step's sums and the options; or why there are none."""
    if side != "ours" and find_spec("trl") is None:
        return "TRL is not installed (pip install 'dft-sweeps[bench]')"
    if side == "liger" and find_spec("liger_kernel") is None:
        return "Liger is not installed (pip install 'dft-sweeps[bench]')"
    memory = torch.cuda.get_device_properties(0).total_memory
    tokens = 16_384 if memory > 100 * 2**30 else 8192
    chosen = options(side, tokens, max(len(sample.ids) for sample in samples))
    try:
        with Worker("ours" if side == "ours" else "trl", directory, chosen, machine.threads) as worker:
            seconds = [worker.round() for _ in range(machine.rounds)]
            return worker.finish() | {"seconds": seconds, "options": chosen}
    except WorkerEnded as error:
        return f"it ended early: {str(error).splitlines()[-1]}"


def row_of(draft: dict[str, str], side: str, found: Mapping[str, Any], samples: Sequence[Sample]) -> Row:
    ours, this = found["ours"], found[side]
    for result in (ours, this):
        if isinstance(result, str):
            return Row(**draft, not_run=result)
    wrong = disagreement(ours, this)
    if wrong:
        return Row(**draft, not_run=f"invalid, the sides do not train the same ({wrong})")
    device, tokens = torch.cuda.get_device_name(0), sum(len(sample.ids) for sample in samples)
    detail = (
        f"{draft['detail']}; {device}; {COUNT} samples of digits, {tokens:,} tokens, {ours['targets']:,} of them "
        f"targets, in one optimizer batch; medians of {len(ours['seconds'])} rounds, one side after the other; "
        f"peak memory {ours['peak_mib']:.0f} and {this['peak_mib']:.0f} MiB; options {this['options']}"
    )
    draft = draft | {"detail": detail}
    if side != "ours":
        return Row(**draft, ours=tokens / median(ours["seconds"]), peer=tokens / median(this["seconds"]))
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in device), None)
    if peak is None:
        return Row(**draft, not_run=f"the peak FLOP/s of a {device} are not in the table")
    assert QWEN_1_5B.qwen2 is not None
    utilisation = model_flops(QWEN_1_5B.qwen2, samples) / median(ours["seconds"]) / peak
    draft["detail"] += (
        "; FLOPs of a step: 6 per weight of the layers and token, 6 per weight of the head and target, none for the "
        "embedding lookup, and causal attention within each sample"
    )
    return Row(**draft, ours=utilisation, peer=TARGET_UTILISATION)


def model_flops(shape: Mapping[str, Any], samples: Sequence[Sample]) -> int:
    """FLOPs that a training step on these samples needs, nothing computed twice: see the detail of the row."""
    width, layers = shape["hidden_size"], shape["num_hidden_layers"]
    grouped = width * shape["num_key_value_heads"] // shape["num_attention_heads"]
    layer = width * (2 * width + 2 * grouped + 3 * shape["intermediate_size"])
    tokens, targets = sum(len(sample.ids) for sample in samples), sum(sample.targets for sample in samples)
    attended = sum(len(sample.ids) ** 2 for sample in samples)
    return 6 * (layers * layer * tokens + shape["vocab_size"] * width * targets + layers * width * attended)
