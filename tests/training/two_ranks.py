"""What each of several ranks runs in the tests of sharding, and a way to start them that cannot hang for ever."""

from __future__ import annotations

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

from dft_sweeps.training.checkpoint import make_canary, save_checkpoint
from dft_sweeps.training.loop import CheckpointReady, NonFiniteError, StepDone, train
from dft_sweeps.training.model_files import EMBEDDED
from dft_sweeps.training.policy import Policy
from dft_sweeps.training.sharding import Ranks
from tests.training.tiny_policy import CONTEXT, batch_gradients, full, random_samples, tiny_model, train_spec

MICRO_BATCH_TOKENS = 2 * CONTEXT
GRADIENT_CASES: dict[str, dict[str, Any]] = {
    "sft": {"samples": 17, "objective": "sft"},
    "dft": {"samples": 17, "objective": "dft"},
    "tied": {"samples": 17, "objective": "dft", "tied": True},
    "four_samples": {"samples": 4, "objective": "dft"},
    "one_sample": {"samples": 1, "objective": "dft"},
}
"""With two ranks the last leaves rank 1 without a sample; in the others one rank has fewer micro-batches."""


def start(ranks: int, function: Callable[..., None], directory: Path, timeout_s: float) -> None:
    """Runs `function(rank, ranks, directory)` in so many processes; raises what the first failing one raised."""
    context = torch.multiprocessing.start_processes(
        function, (ranks, directory), nprocs=ranks, join=False, start_method="spawn"
    )
    deadline = time.monotonic() + timeout_s
    try:
        while not context.join(timeout=1.0):
            assert time.monotonic() < deadline, f"ranks still running after {timeout_s} s: they wait for each other"
    finally:
        for process in context.processes:
            process.kill()
            process.join()


def run_in_group(rank: int, ranks: int, directory: Path) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("error", message="FSDP2")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = f"file://{directory / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    try:
        results = run_cases(Ranks.current(), directory) | {"shards": _shards(Ranks.current())}
        torch.save(results, directory / f"results-{rank}.pt")
    finally:
        dist.destroy_process_group()


def run_cases(ranks: Ranks, directory: Path) -> dict[str, Any]:
    """Everything that must not depend on the number of ranks."""
    return {
        "gradients": {name: _gradients(ranks, **case) for name, case in GRADIENT_CASES.items()},
        "untied": _three_steps(ranks, directory / "untied", tied=False),
        "again": _three_steps(ranks, directory / "again", tied=False),
        "tied": _three_steps(ranks, directory / "tied", tied=True),
        "non_finite": _non_finite(ranks),
    }


def _shards(ranks: Ranks) -> tuple[list[str], int]:
    """The modules that gather their weights by themselves, and the numbers this rank keeps."""
    policy = ranks.shard(Policy(tiny_model()))
    modules = [name for name, module in policy.named_modules() if isinstance(module, FSDPModule)]
    return modules, sum(parameter.to_local().numel() for parameter in policy.parameters())


def _gradients(ranks: Ranks, samples: int, objective: str, tied: bool = False) -> dict[str, torch.Tensor]:
    policy = ranks.shard(Policy(tiny_model(tied=tied)))
    return batch_gradients(policy, random_samples(samples), objective, CONTEXT, ranks=ranks)


def _three_steps(ranks: Ranks, directory: Path, tied: bool) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    policy = ranks.shard(Policy(tiny_model(tied=tied)))
    samples = random_samples(20)
    metrics, canaries, digests = [], [], []
    settings = train_spec(batch_size=6, steps=3, optimizer={"clip_norm": 0.05})
    for event in train(policy, samples, settings, frozenset({0, 2, 3}), MICRO_BATCH_TOKENS, CONTEXT, ranks):
        if isinstance(event, StepDone):
            metrics.append(event.metrics)
        elif isinstance(event, CheckpointReady):
            canaries.append(make_canary(policy, samples))
            if event.step:  # as the trial does: no checkpoint of the base model
                target = directory / str(event.step)
                digests.append(save_checkpoint(policy, tokenizer, canaries[-1], target, ranks))
    weights = {name: full(parameter) for name, parameter in policy.model.named_parameters()}
    return {"metrics": metrics, "logprobs": [c.logprobs for c in canaries], "digests": digests, "weights": weights}


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
        list(train(policy, samples, train_spec(batch_size=8, steps=1), frozenset(), CONTEXT, CONTEXT, ranks))
    except NonFiniteError as error:
        return str(error)
    return "finite"
