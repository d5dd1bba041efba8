"""What each of several ranks runs in the tests of sharding, and a way to start them that cannot hang for ever."""

from __future__ import annotations

import itertools
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.distributed.fsdp import FSDPModule
from transformers import AutoTokenizer

from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.spec.models import ExecutionSpec, LoraSpec
from dft_sweeps.training.checkpoint import make_canary, save_checkpoint
from dft_sweeps.training.decoder import prepare_layers
from dft_sweeps.training.logprobs import Column, all_logprobs
from dft_sweeps.training.loop import CheckpointReady, NonFiniteError, StepDone, train
from dft_sweeps.training.lora import add_adapters
from dft_sweeps.training.model_checks import settle_attention
from dft_sweeps.training.model_files import EMBEDDED
from dft_sweeps.training.policy import Policy
from dft_sweeps.training.sharding import Ranks
from dft_sweeps.training.state import TrainState
from tests.training.loops import curve, execution, run_loop
from tests.training.tiny_policy import CONTEXT, batch_gradients, full, random_samples, tiny_model, train_spec

MICRO_BATCH_TOKENS = 2 * CONTEXT
GRADIENT_CASES: dict[str, dict[str, Any]] = {
    "sft": {"samples": 17, "objective": "sft"},
    "dft": {"samples": 17, "objective": "dft"},
    "tied": {"samples": 17, "objective": "dft", "tied": True},
    "four_samples": {"samples": 4, "objective": "dft"},
    "one_sample": {"samples": 1, "objective": "dft"},
    "whole_samples": {"samples": 17, "objective": {"kind": "sentence_weighted", "mean": "geometric"}},
    "reference_rows": {"samples": 17, "objective": "asft"},
    "adapters": {"samples": 17, "objective": "dft", "adapter": {"kind": "lora", "rank": 2}},
    "adapters_and_reference": {"samples": 17, "objective": "asft", "adapter": {"kind": "lora", "rank": 2}},
    "recomputed_layers": {"samples": 17, "objective": "dft", "execution": {"gradient_checkpointing": True}},
    "by_sample": {"samples": 17, "objective": "dft", "execution": {"attention": "by_sample"}},
}
"""With two ranks the last leaves rank 1 without a sample; in the others one rank has fewer micro-batches."""


def start(ranks: int, function: Callable[[Ranks, Path], None], directory: Path, timeout_s: float) -> None:
    """Runs `function(ranks, directory)` in a group of so many processes; raises what the first failing one raised."""
    context = torch.multiprocessing.start_processes(
        _in_group, (ranks, function, directory), nprocs=ranks, join=False, start_method="spawn"
    )
    deadline = time.monotonic() + timeout_s
    try:
        while not context.join(timeout=1.0):
            assert time.monotonic() < deadline, f"ranks still running after {timeout_s} s: they wait for each other"
    finally:
        for process in context.processes:
            process.kill()
            process.join()


def _in_group(rank: int, ranks: int, function: Callable[[Ranks, Path], None], directory: Path) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("error", message="FSDP2")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = f"file://{directory / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    try:
        function(Ranks.current(), directory)
    finally:
        dist.destroy_process_group()
    # Gloo's threads outlive their group. One that drops its last tensor while Python ends aborts the process:
    # https://github.com/pytorch/pytorch/pull/179291
    os._exit(0)


def run_in_group(ranks: Ranks, directory: Path) -> None:
    results = run_cases(ranks, directory) | {"shards": _shards(ranks)}
    torch.save(results, directory / f"results-{ranks.rank}.pt")


def run_cases(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """Everything that must not depend on the number of ranks."""
    return {
        "gradients": {name: _gradients(ranks, **case) for name, case in GRADIENT_CASES.items()},
        "untied": _three_steps(ranks, directory / "untied", tied=False),
        "again": _three_steps(ranks, directory / "again", tied=False),
        "tied": _three_steps(ranks, directory / "tied", tied=True),
        "non_finite": _non_finite(ranks),
        "resumed": {name: _resumed(ranks, directory / f"resumed-{name}", name) for name in ("dft", "psft", "iw_sft")},
    }


def _shards(ranks: Ranks) -> tuple[list[str], int]:
    """The modules that gather their weights by themselves, and the numbers this rank keeps."""
    policy = ranks.shard(Policy(tiny_model()))
    modules = [name for name, module in policy.named_modules() if isinstance(module, FSDPModule)]
    return modules, sum(parameter.to_local().numel() for parameter in policy.parameters())


def _gradients(
    ranks: Ranks,
    samples: int,
    objective: str | dict[str, Any],
    tied: bool = False,
    adapter: dict[str, Any] | None = None,
    execution: dict[str, Any] | None = None,
) -> dict[str, torch.Tensor]:
    model, limits = tiny_model(tied=tied), ExecutionSpec.model_validate(execution or {})
    if limits.attention != "auto":
        settle_attention(model, limits.attention, torch.float32)
    if adapter is not None:
        add_adapters(model, LoraSpec.model_validate(adapter), seed=0)
        with torch.no_grad():  # or the gradients of half of the matrices would be zero
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:
                    parameter.copy_(torch.linspace(-0.3, 0.3, parameter.numel()).reshape(parameter.shape))
    prepare_layers(model, limits)
    compared = objective == "asft" and adapter is None
    policy = ranks.shard(Policy(model, reference=tiny_model(seed=1) if compared else None))
    return batch_gradients(policy, random_samples(samples), objective, CONTEXT, ranks=ranks)


def _three_steps(ranks: Ranks, directory: Path, tied: bool) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    policy = ranks.shard(Policy(tiny_model(tied=tied)))
    samples = random_samples(20)
    metrics, canaries, digests = [], [], []
    settings = train_spec(batch_size=6, steps=3, optimizer={"clip_norm": 0.05})
    for event in run_loop(policy, samples, settings, frozenset({0, 2, 3}), MICRO_BATCH_TOKENS, ranks=ranks):
        if isinstance(event, StepDone):
            metrics.append(event.metrics)
        elif isinstance(event, CheckpointReady):
            canaries.append(make_canary(policy, samples))
            if event.step:  # as the trial does: no checkpoint of the base model
                target = directory / str(event.step)
                digests.append(save_checkpoint(policy, Prompts(tokenizer), canaries[-1], target, ranks))
    weights = {name: full(parameter) for name, parameter in policy.model.named_parameters()}
    return {"metrics": metrics, "logprobs": [c.logprobs for c in canaries], "digests": digests, "weights": weights}


def _resumed(ranks: Ranks, directory: Path, objective: str) -> tuple[list[dict[str, float]], ...]:
    """Two curves that should be one: uninterrupted, and cut off after two of four steps."""
    samples, limits = random_samples(20), execution(MICRO_BATCH_TOKENS)
    settings = train_spec(objective, batch_size=6, steps=4, learning_rate=5e-3)

    def fresh() -> tuple[TrainState, Column | None]:
        """As a trial has it: the policy is its own reference before it is trained."""
        policy = ranks.shard(Policy(tiny_model()))
        reference = all_logprobs(policy, samples, limits, ranks) if objective == "iw_sft" else None
        return TrainState(policy, settings), reference

    def steps(state: TrainState, reference: Column | None, last: int = 4) -> list[dict[str, float]]:
        events = train(state, samples, frozenset(), limits, ranks, reference)
        return curve(list(itertools.islice(events, last - state.step)))

    whole = steps(*fresh())
    state, reference = fresh()
    before = steps(state, reference, last=2)
    all_logprobs(state.policy, samples, limits, ranks)  # as for a histogram
    state.save(directory, ranks, {})
    state, reference = fresh()
    state.load(directory, ranks)
    return whole, before + steps(state, reference)


def _non_finite(ranks: Ranks) -> str:
    """Only the last sample of the batch, so the last rank's, has a loss that is not finite."""
    policy = Policy(tiny_model())
    samples = random_samples(8, seed=5)
    poisoned = next(token for token in range(3, 97) if not any(token in sample.ids for sample in samples))
    with torch.no_grad():
        policy.model.get_input_embeddings().weight[poisoned] = float("nan")
    policy = ranks.shard(policy)
    samples[-1] = type(samples[-1])((poisoned, *samples[-1].ids[1:]), 1)
    try:
        list(run_loop(policy, samples, train_spec(batch_size=8, steps=1), micro_batch_tokens=CONTEXT, ranks=ranks))
    except NonFiniteError as error:
        return str(error)
    return "finite"
