"""The sides of a throughput row: the package's own loop, and TRL's SFTTrainer under a given configuration.

Both train what `workload.prepare` wrote, AdamW with betas (0.9, 0.95), weight decay 0.01, clip norm 1.0 and a constant
learning rate, until `Rounds` stops them.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.bench.rounds import Rounds, Stopped
from tests.bench.workload import BATCH, encoded_samples, read_samples, target_count

LEARNING_RATE = 5e-5
_ROUNDS = 1000
"""More than are ever asked for."""

MakeRounds = Callable[[int], Rounds]
"""From the optimizer steps in a round."""


def train_ours(directory: Path, options: Mapping[str, Any], make_rounds: MakeRounds) -> Rounds:
    """Trains with `dft_sweeps.training.loop.train`; `options` are fields of ExecutionSpec."""
    import torch
    from transformers import AutoTokenizer

    from dft_sweeps.spec.models import DftObjective, ExecutionSpec, ScheduleSpec, TrainSpec
    from dft_sweeps.training.loop import StepDone, train
    from dft_sweeps.training.order import batch_indices
    from dft_sweeps.training.policy import load_policy
    from dft_sweeps.training.sharding import Ranks

    samples = encoded_samples(read_samples(directory), AutoTokenizer.from_pretrained(directory))
    steps = len(samples) // BATCH
    settings = TrainSpec(
        objective=DftObjective(kind="dft"),
        learning_rate=LEARNING_RATE,
        batch_size=BATCH,
        steps=steps * _ROUNDS,
        schedule=ScheduleSpec(kind="constant", warmup_ratio=0.0),
    )
    execution = ExecutionSpec(**options)
    policy = load_policy(directory)
    rounds = make_rounds(steps)
    events = train(
        policy, samples, settings, frozenset(), execution.micro_batch_tokens, execution.pack_length, Ranks()
    )
    try:
        for event in events:
            if isinstance(event, StepDone) and event.step <= steps:
                batch = batch_indices(event.step, settings, len(samples))
                targets = sum(target_count(samples[index]) for index in batch)
                rounds.record(event.metrics["train/objective"] * targets, targets)
    except Stopped:
        pass
    return rounds


def train_trl(directory: Path, options: Mapping[str, Any], make_rounds: MakeRounds) -> Rounds:
    """Trains with SFTTrainer; `options` are fields of SFTConfig over those that make the sides comparable."""
    with tempfile.TemporaryDirectory() as output:
        trainer = trl_trainer(directory, options, Path(output))
        accumulated = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
        rounds = make_rounds(math.ceil(len(trainer.train_dataset) / accumulated))
        compute_loss = trainer.compute_loss

        def recorded(model: Any, inputs: dict[str, Any], *args: Any, num_items_in_batch: Any, **kwargs: Any) -> Any:
            loss = compute_loss(model, inputs, *args, num_items_in_batch=num_items_in_batch, **kwargs)
            if not rounds.warm:
                targets = int((inputs["labels"][:, 1:] != -100).sum())
                rounds.record(float(loss) * float(num_items_in_batch), targets)
            return loss

        trainer.compute_loss = recorded
        try:
            trainer.train()
        except Stopped:
            pass
    return rounds


def trl_trainer(directory: Path, options: Mapping[str, Any], output: Path) -> Any:
    """The SFTTrainer of a side; prompts are given as text, completions get the tokenizer's end of sequence."""
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    turns = [([{"role": "user", "content": row.prompt}], row.completion) for row in read_samples(directory)]
    rows = [
        {
            "prompt": tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False),
            "completion": completion,
        }
        for turn, completion in turns
    ]
    config = SFTConfig(
        **{
            "output_dir": str(output),
            "loss_type": "dft",
            "learning_rate": LEARNING_RATE,
            "lr_scheduler_type": "constant",
            "adam_beta2": 0.95,
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "num_train_epochs": _ROUNDS,
            "max_length": 4096,
            "bf16": False,
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
        }
        | dict(options)
    )
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa"),
        args=config,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )


SIDES = {"ours": train_ours, "trl": train_trl}
