"""Random policies on disk, prompts and requests for the tests of the services."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from dft_sweeps.evaluation.generator import Canary, Request
from services.engine_settings import EngineSettings

STOP_TOKEN = 1
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
        from transformers import Qwen2ForCausalLM

        model = Qwen2ForCausalLM.from_pretrained(self.directory, dtype="float32")
        tokens = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=STOP_TOKEN,
            pad_token_id=0,
        )
        return tuple(tokens[0, len(prompt) :].tolist())


def make_checkpoint(directory: Path, seed: int, tied: bool, vocabulary: int = 512) -> Checkpoint:
    """Saves a random Qwen2 shape; large weights, so that two seeds disagree on every next token."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=tied,
        eos_token_id=STOP_TOKEN,
        bos_token_id=0,
        initializer_range=0.1,
    )
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(directory)
    prompts = tuple(random_prompts(count=4, length=12, seed=7))
    with torch.no_grad():
        rows = [model(torch.tensor([prompt])).logits[0, :-1].log_softmax(-1) for prompt in prompts]
    logprobs = tuple(
        tuple(row[i, token].item() for i, token in enumerate(prompt[1:]))
        for row, prompt in zip(rows, prompts, strict=True)
    )
    return Checkpoint(str(directory), f"seed-{seed}", Canary(prompts, logprobs))


def random_prompts(count: int, length: int, seed: int) -> list[tuple[int, ...]]:
    """Prompts without special tokens."""
    stream = random.Random(seed)
    return [tuple(stream.randrange(3, 500) for _ in range(length)) for _ in range(count)]


def sampled(
    prompts: list[tuple[int, ...]], n: int = 1, temperature: float = 0.0, max_new_tokens: int = 24
) -> list[Request]:
    """One request per prompt with well-spaced seeds."""
    return [
        Request(prompt, n, temperature, 1.0, max_new_tokens, seed=1000 * index) for index, prompt in enumerate(prompts)
    ]
