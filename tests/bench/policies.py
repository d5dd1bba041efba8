"""What evaluation rows measure with: checkpoints that an engine can be swapped to, and requests made of GSM8K."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.evaluation.generator import Canary, Request
from dft_sweeps.spec.models import ExecutionSpec, TrialSpec
from tests.bench import workload
from tests.bench.throughput import say


@dataclass(frozen=True)
class Saved:
    """A checkpoint with its canary, as the training side commits it."""

    directory: str
    digest: str

    @property
    def canary(self) -> Canary:
        from dft_sweeps.training.checkpoint import CANARY_FILE

        return Canary.load(Path(self.directory) / CANARY_FILE)


def checkpoints(shape: workload.Shape, directory: Path, count: int = 1, endless: bool = False) -> list[Saved]:
    """The shape's model as a checkpoint, and further ones whose weights are each a few percent away from it.

    An endless model's files name no end of sequence, so nothing but its length ends a completion.
    """
    import torch

    from dft_sweeps.training.checkpoint import make_canary, save_checkpoint
    from dft_sweeps.training.policy import load_policy
    from dft_sweeps.training.sharding import Ranks

    model = directory / "model"
    model.mkdir()
    workload.prepare(shape, model)
    prompts = prompts_of(str(model))
    samples = workload.encoded_samples(workload.read_samples(model), prompts.tokenizer)
    policy = load_policy(model)
    if endless:
        policy.model.config.eos_token_id = None
        policy.model.generation_config.eos_token_id = None
    random = torch.Generator().manual_seed(0)
    saved = []
    for index in range(count):
        if index:
            with torch.no_grad():
                for parameter in policy.parameters():
                    parameter.mul_(1 + 0.03 * torch.randn(parameter.shape, generator=random))
        place = directory / f"checkpoint-{index}"
        digest = save_checkpoint(policy, prompts, make_canary(policy, samples), place, Ranks())
        saved.append(Saved(str(place), digest))
    return saved


def trained(spec: TrialSpec, execution: ExecutionSpec, place: Path, threads: int) -> Saved:
    """The shipped base after a trial's steps on files of absolute paths or embedded data, saved as the trial does."""
    import torch

    from dft_sweeps.data.encode import encode
    from dft_sweeps.data.sources import load_demonstrations
    from dft_sweeps.training.checkpoint import make_canary, save_checkpoint
    from dft_sweeps.training.loop import train
    from dft_sweeps.training.policy import load_policy
    from dft_sweeps.training.sharding import Ranks
    from dft_sweeps.training.state import TrainState

    torch.set_num_threads(threads)
    prompts = prompts_of(str(workload.SHIPPED_BASE))
    rows = load_demonstrations(spec.data.source, Path(), spec.data.instruction).rows
    samples = encode(rows, spec.data, prompts)
    policy = load_policy(workload.SHIPPED_BASE, spec.model, spec.train, execution)
    for event in train(TrainState(policy, spec.train), samples, frozenset(), execution, Ranks()):
        if event.step % 20 == 0:
            say(f"training {place.name}: step {event.step}, nll {event.metrics['train/nll']:.3f}")
    return Saved(str(place), save_checkpoint(policy, prompts, make_canary(policy, samples), place, Ranks()))


def prompts_of(directory: str) -> Prompts:
    """How a checkpoint's model is asked."""
    from transformers import AutoTokenizer

    return Prompts(AutoTokenizer.from_pretrained(directory))


def gsm8k_requests(prompts: Prompts, questions: int, samples: int, max_new_tokens: int, seed: int = 0) -> list[Request]:
    """Requests of GSM8K's training questions, at evenly spaced quantiles of their lengths."""
    rows = workload.by_length(workload.gsm8k(), prompts.tokenizer, questions)
    return [
        Request(prompts.ids(row.prompt), samples, 1.0, 1.0, max_new_tokens, seed=(seed + index) * 1024)
        for index, row in enumerate(rows)
    ]


def write_requests(requests: Iterable[Request], path: Path) -> None:
    path.write_text(json.dumps([asdict(request) for request in requests]))


def read_requests(path: str) -> list[Request]:
    """What `write_requests` wrote."""
    rows = json.loads(Path(path).read_text())
    return [Request(**row | {"prompt": tuple(row["prompt"])}) for row in rows]


def fingerprint(completions: Iterable[Sequence[Sequence[int]]]) -> dict[str, int | str]:
    """Number and hash of all tokens, by which two sides are known to have generated the same.

    Args:
        completions: token ids of each request's completions.
    """
    from hashlib import sha256

    everything = [[list(ids) for ids in of_request] for of_request in completions]
    digest = sha256(json.dumps(everything).encode()).hexdigest()[:16]
    return {"tokens": sum(len(ids) for of_request in everything for ids in of_request), "hash": digest}
