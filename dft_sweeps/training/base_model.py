"""The embedded base policy from scratch: tokenizer, a Qwen2 of about a million parameters, its training.

One command makes the directory shipped as package data and measures it. It trains with the package's own loop
on noisy demonstrations, so that sampling errs and fine-tuning has something to improve. The same arguments,
thread count and library versions give the same weights. The directory is replaced only by a whole one.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from dft_sweeps.data.arithmetic import LEVELS, problems
from dft_sweeps.data.encode import Sample, encode
from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.data.sources import load_demonstrations
from dft_sweeps.data.tokenizer import save_tokenizer
from dft_sweeps.evaluation.grading import last_boxed
from dft_sweeps.spec.models import ArithmeticSource, DataSpec, ExecutionSpec, ScheduleSpec, SftObjective, TrainSpec
from dft_sweeps.training.loop import StepDone, train
from dft_sweeps.training.policy import Policy
from dft_sweeps.training.sharding import Ranks
from dft_sweeps.training.state import TrainState

CONTEXT = 4096
"""Longest sequence in tokens. Mathematical text costs about 0.8 tokens a byte, so benchmark prompts fit."""

PACK_LENGTH = 128
MICRO_BATCH_TOKENS = 4096
MAX_NEW_TOKENS = 96


def new_model(tokenizer: PreTrainedTokenizerBase, seed: int) -> Qwen2ForCausalLM:
    """A random float32 model for this vocabulary."""
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=416,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            initializer_range=0.08,  # about 1 / sqrt(width): the usual 0.02 is for widths of thousands
            tie_word_embeddings=False,  # vLLM on CPU reloads tied ones wrongly
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def training_samples(tokenizer: PreTrainedTokenizerBase, count: int, wrong_steps: float, seed: int) -> Sequence[Sample]:
    """Demonstrations of all levels in tokens."""
    source = ArithmeticSource(kind="arithmetic", samples=count, wrong_steps=wrong_steps, seed=seed)
    rows = load_demonstrations(source, Path()).rows
    return encode(rows, DataSpec(source=source), Prompts(tokenizer))


def fit(model: PreTrainedModel, samples: Sequence[Sample], settings: TrainSpec, every: int) -> None:
    """Trains in place and prints a line every so many steps."""
    started = time.perf_counter()
    limits = ExecutionSpec(micro_batch_tokens=MICRO_BATCH_TOKENS, pack_length=PACK_LENGTH)
    for event in train(TrainState(Policy(model), settings), samples, frozenset(), limits, Ranks()):
        if isinstance(event, StepDone) and event.step % every == 0:
            elapsed = time.perf_counter() - started
            print(
                f"step {event.step}: nll {event.metrics['train/nll']:.3f}, "
                f"{event.metrics['train/tokens'] / elapsed:,.0f} tokens/s, {elapsed:.0f} s",
                flush=True,
            )


@torch.no_grad()
def accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    level: int,
    count: int,
    temperature: float,
    seed: int,
) -> float:
    """Share of `count` held-out problems whose completion boxes the right answer (temperature 0: greedy)."""
    asked = problems(level, count, seed, "heldout")
    prompts = [Prompts(tokenizer).ids(problem.question) for problem in asked]
    width = max(map(len, prompts))
    padded = [[tokenizer.pad_token_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    sequences = model.eval().generate(
        input_ids=torch.tensor(padded),
        attention_mask=torch.tensor(mask),
        max_new_tokens=MAX_NEW_TOKENS,
        **sampling,
    )
    texts = tokenizer.batch_decode(sequences[:, width:])
    right = sum(last_boxed(text) == problem.answer for text, problem in zip(texts, asked, strict=True))
    return right / count


def measure(directory: Path, count: int, seed: int) -> dict[int, tuple[float, float]]:
    """Held-out accuracy of a saved policy by level: sampled at temperature 1.0, and greedy."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return {
        level: (
            accuracy(model, tokenizer, level, count, 1.0, seed),
            accuracy(model, tokenizer, level, count, 0.0, seed),
        )
        for level in LEVELS
    }


def make(directory: Path, settings: TrainSpec, wrong_steps: float, every: int) -> None:
    """Writes tokenizer and trained policy to `directory`, replacing it once the new one is whole."""
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_tokenizer(partial, CONTEXT)
    tokenizer = AutoTokenizer.from_pretrained(partial)
    model = new_model(tokenizer, settings.seed)
    assert settings.steps is not None
    samples = training_samples(tokenizer, settings.steps * settings.batch_size, wrong_steps, settings.seed)
    tokens = sum(len(sample.ids) for sample in samples) / len(samples)
    print(
        f"{model.num_parameters():,} parameters, {len(tokenizer)} words, {tokens:.1f} tokens/sample",
        flush=True,
    )
    fit(model, samples, settings, every)
    model.save_pretrained(partial)
    (partial / "model.safetensors").chmod(0o644)  # written for its owner alone, which a package must not keep
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: make the policy, then print what was made and measured."""
    parser = argparse.ArgumentParser(description="Make the embedded base policy from scratch.")
    parser.add_argument("--out", type=Path, required=True, help="directory to write (replaced if it exists)")
    parser.add_argument("--steps", type=int, default=2200, help="optimizer steps")
    parser.add_argument("--batch-size", type=int, default=32, help="samples per step")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--wrong-steps", type=float, default=0.6, help="share of demonstrations with a wrong step")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, data and order")
    parser.add_argument("--threads", type=int, default=2, help="torch threads; another number changes the last bits")
    parser.add_argument("--problems", type=int, default=500, help="held-out problems per level to measure on")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    settings = TrainSpec(
        objective=SftObjective(kind="sft"),
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        steps=options.steps,
        seed=options.seed,
        schedule=ScheduleSpec(kind="cosine", warmup_ratio=0.05),
    )
    started = time.perf_counter()
    make(options.out, settings, options.wrong_steps, every=100)
    size = sum(file.stat().st_size for file in options.out.iterdir())
    print(f"{options.out}: {size / 1e6:.2f} MB, made in {time.perf_counter() - started:.0f} s")
    for level, (sampled, greedy) in measure(options.out, options.problems, seed=0).items():
        print(f"level {level}: {sampled:.1%} right at temperature 1.0, {greedy:.1%} greedy")


if __name__ == "__main__":
    main()
