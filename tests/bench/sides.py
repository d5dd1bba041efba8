"""The sides of a throughput row: the package's own loop, and TRL's SFTTrainer under a given configuration.

Both train what `workload` wrote, all samples in one optimizer batch, with AdamW, betas (0.9, 0.95), weight decay 0.01,
clip norm 1.0 and a constant learning rate, until `Rounds` stops them.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.rounds import Rounds, Stopped
from tests.bench.workload import encoded_samples, read_samples

if TYPE_CHECKING:
    from trl import SFTTrainer

LEARNING_RATE = 5e-5
_ROUNDS = 1000
"""More than are ever asked for."""

MakeRounds = Callable[[int], Rounds]
"""From the optimizer steps in a round."""


def train_ours(directory: Path, options: Mapping[str, Any], make_rounds: MakeRounds) -> Rounds:
    """Trains with `dft_sweeps.training.loop.train`; `options` are `device`, `dtype` and fields of ExecutionSpec."""
    from transformers import AutoTokenizer

    from dft_sweeps.spec.models import DftObjective, ExecutionSpec, ModelSpec, ScheduleSpec, TrainSpec
    from dft_sweeps.training.loop import StepDone, train
    from dft_sweeps.training.policy import load_policy
    from dft_sweeps.training.sharding import Ranks
    from dft_sweeps.training.state import TrainState

    samples = encoded_samples(read_samples(directory), AutoTokenizer.from_pretrained(directory))
    settings = TrainSpec(
        objective=DftObjective(kind="dft"),
        learning_rate=LEARNING_RATE,
        batch_size=len(samples),
        steps=_ROUNDS,
        schedule=ScheduleSpec(kind="constant", warmup_ratio=0.0),
    )
    execution = ExecutionSpec(**{name: value for name, value in options.items() if name not in {"device", "dtype"}})
    model = ModelSpec(dtype=options["dtype"])
    policy = load_policy(directory, model, settings, execution, options["device"])
    rounds = make_rounds(1)
    targets = sum(sample.targets for sample in samples)
    with suppress(Stopped):
        for event in train(TrainState(policy, settings), samples, frozenset(), execution, Ranks()):
            if isinstance(event, StepDone) and event.step == 1:
                rounds.record(event.metrics["train/objective"] * targets, targets)
    return rounds


def train_trl(directory: Path, options: Mapping[str, Any], make_rounds: MakeRounds) -> Rounds:
    """Trains with SFTTrainer; `options` are fields of SFTConfig, with `attention` that of the model."""
    with tempfile.TemporaryDirectory() as output:
        trainer = trl_trainer(directory, options, Path(output))
        accumulated = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
        rounds = make_rounds(math.ceil(len(trainer.train_dataset) / accumulated))
        compute_loss = trainer.compute_loss

        def recorded(model: Any, inputs: dict[str, Any], *args: Any, num_items_in_batch: Any, **kwargs: Any) -> Any:
            loss = compute_loss(model, inputs, *args, num_items_in_batch=num_items_in_batch, **kwargs)
            if not rounds.warm:
                targets = int((inputs["labels"][:, 1:] != -100).sum())
                rounds.record(float(loss.detach()) * float(num_items_in_batch), targets)
            return loss

        trainer.compute_loss = recorded
        with suppress(Stopped):
            trainer.train()
    return rounds


def trl_trainer(directory: Path, options: Mapping[str, Any], output: Path) -> SFTTrainer:
    """The SFTTrainer of a side. With `packing`, all packed rows are one optimizer batch, a row at a time."""
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    settings: dict[str, Any] = {
        "output_dir": str(output),
        "loss_type": "dft",
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "num_train_epochs": _ROUNDS,
        "max_length": 4096,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    } | dict(options)
    attention = settings.pop("attention", "sdpa")
    if settings.get("packing"):
        rows = packed_rows(directory, tokenizer, settings["max_length"])
        settings |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": rows}
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation=attention),
        args=SFTConfig(**settings),
        train_dataset=datasets.Dataset.from_list(trl_rows(directory, tokenizer)),
        processing_class=tokenizer,
    )


def trl_rows(directory: Path, tokenizer: Any) -> list[dict[str, str]]:
    """The samples as TRL takes them: prompts as the chat template's text, completions without end of sequence, which
    TRL adds. Given as turns, TRL would train on the template's line break after the end of sequence as well."""
    turns = [([{"role": "user", "content": row.prompt}], row.completion) for row in read_samples(directory)]
    return [
        {
            "prompt": tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False),
            "completion": completion,
        }
        for turn, completion in turns
    ]


def packed_rows(directory: Path, tokenizer: Any, row_length: int) -> int:
    """Rows that TRL packs the samples into, none of which may be cut."""
    import datasets
    from trl import pack_dataset

    samples = encoded_samples(read_samples(directory), tokenizer)
    assert max(len(sample.ids) for sample in samples) <= row_length
    return len(pack_dataset(datasets.Dataset.from_list([{"input_ids": s.ids} for s in samples]), row_length))


SIDES = {"ours": train_ours, "trl": train_trl}
