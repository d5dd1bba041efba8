"""Random policies on disk, prompts and requests for the tests of the services."""

from __future__ import annotations

import contextlib
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from dft_sweeps.data.encode import Sample
from dft_sweeps.evaluation.generator import Canary, Request
from dft_sweeps.spec.models import TrainSpec
from dft_sweeps.training.adapter_files import save_adapter
from dft_sweeps.training.checkpoint import make_canary
from dft_sweeps.training.model_files import EMBEDDED
from dft_sweeps.training.policy import load_policy
from dft_sweeps.training.sharding import Ranks
from services.engine_settings import EngineSettings
from services.lease import Engine

STOP_TOKEN, VOCABULARY = 2, 384
ENGINE = EngineSettings(stop_token_ids=(STOP_TOKEN,), max_model_len=512, kv_cache_gib=0.25)


@dataclass(frozen=True)
class Checkpoint:
    """A random policy on disk, and what transformers says about it."""

    directory: str
    digest: str
    canary: Canary

    def greedy(self, prompt: tuple[int, ...], max_new_tokens: int) -> tuple[int, ...]:
        """Greedy continuation by transformers."""
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.directory, dtype="float32")
        tokens = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=STOP_TOKEN,
            pad_token_id=0,
        )
        return tuple(tokens[0, len(prompt) :].tolist())


def make_checkpoint(directory: Path, seed: int, tied: bool, **changes: Any) -> Checkpoint:
    """Saves a policy of the embedded one's shape with large random weights: two seeds disagree on every next token."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    changes |= {"tie_word_embeddings": tied, "initializer_range": 0.1}
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(EMBEDDED, **changes))
    model.save_pretrained(directory)
    prompts = tuple(random_prompts(count=4, length=12, seed=7))
    with torch.no_grad():
        rows = [model(torch.tensor([prompt])).logits[0, :-1].log_softmax(-1) for prompt in prompts]
    logprobs = tuple(
        tuple(row[i, token].item() for i, token in enumerate(prompt[1:]))
        for row, prompt in zip(rows, prompts, strict=True)
    )
    return Checkpoint(str(directory), f"seed-{seed}", Canary(prompts, logprobs))


def random_adapter(base: Checkpoint, directory: Path) -> Checkpoint:
    """Saves an adapter of rank 4 with random matrices on the checkpoint."""
    import torch

    settings = TrainSpec.model_validate(
        {
            "objective": {"kind": "sft"},
            "learning_rate": 1e-3,
            "batch_size": 1,
            "steps": 1,
            "adapter": {"kind": "lora", "rank": 4},
        }
    )
    policy = load_policy(Path(base.directory), train=settings)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, matrix in policy.trained_parameters():
            if ".lora_B." in name:
                matrix.normal_(std=0.05)
    canary = make_canary(policy, [Sample(prompt, 1) for prompt in random_prompts(count=4, length=40, seed=3)])
    return Checkpoint(str(directory), save_adapter(policy, base.digest, canary, directory, Ranks()), canary)


def random_prompts(count: int, length: int, seed: int) -> list[tuple[int, ...]]:
    """Prompts without special tokens."""
    stream = random.Random(seed)
    return [tuple(stream.randrange(3, VOCABULARY) for _ in range(length)) for _ in range(count)]


def sampled(
    prompts: list[tuple[int, ...]], n: int = 1, temperature: float = 0.0, max_new_tokens: int = 24
) -> list[Request]:
    """One request per prompt with well-spaced seeds."""
    return [
        Request(prompt, n, temperature, 1.0, max_new_tokens, seed=1000 * index) for index, prompt in enumerate(prompts)
    ]


def require_works(engine: Engine, checkpoint: Checkpoint) -> None:
    """Swaps the checkpoint in and compares a few greedy completions with transformers'."""
    engine.swap(checkpoint.directory, checkpoint.digest, checkpoint.canary)
    prompts = random_prompts(count=3, length=20, seed=11)
    completions = engine.generate(sampled(prompts))
    assert [c.token_ids for [c] in completions] == [checkpoint.greedy(prompt, 24) for prompt in prompts]


def wait_until_gone(process_id: int, seconds: float) -> None:
    """Fails when the process is still there, other than as a zombie, after so many seconds."""
    deadline = time.monotonic() + seconds
    while _is_there(process_id):
        assert time.monotonic() < deadline, f"process {process_id} is still there after {seconds} s"
        time.sleep(0.2)


def _is_there(process_id: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    return False
