"""Checkpoints: a model directory that transformers and vLLM load, with the canary that proves an engine loaded it.

A checkpoint is written beside its place and renamed into it once it is on the disk, so a directory under its final
name is always whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from dft_sweeps.data.durable import put_in_place
from dft_sweeps.data.encode import Sample
from dft_sweeps.data.packing import micro_batches
from dft_sweeps.data.prompt_templates import CHAT, TEMPLATE_FILE, Prompts
from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.training.model_files import weights_digest
from dft_sweeps.training.policy import Policy, target_logprobs
from dft_sweeps.training.sharding import Ranks

CANARY_FILE, WEIGHTS_FILE = "canary.json", "model.safetensors"
_CANARY_PROMPTS, _CANARY_LENGTH = 4, 48


def make_canary(policy: Policy, samples: Sequence[Sample]) -> Canary:
    """The policy's log-probabilities of the first few samples' first tokens. Collective under sharding."""
    prompts = [Sample(sample.ids[:_CANARY_LENGTH], 1) for sample in samples[:_CANARY_PROMPTS]]
    [batch] = micro_batches(prompts, 1, _CANARY_PROMPTS * _CANARY_LENGTH)  # a row each
    rows: list[list[float]] = [[] for _ in prompts]
    for place, value in zip(batch.sample, target_logprobs(policy, batch).tolist(), strict=True):
        rows[batch.members[place]].append(value)
    return Canary(tuple(prompt.ids for prompt in prompts), tuple(map(tuple, rows)))


def save_checkpoint(policy: Policy, prompts: Prompts, canary: Canary, directory: Path, ranks: Ranks) -> str:
    """Writes a checkpoint to `directory` and gives its weights digest. Collective; rank 0 writes.

    A checkpoint already there under the same name is replaced. Other ranks return an empty digest.
    """
    state = ranks.full_state(policy)
    return "" if ranks.rank != 0 else write_checkpoint(policy, state, prompts, canary, directory)


def snapshot(policy: Policy, ranks: Ranks) -> dict[str, Tensor]:
    """A copy of the weights as they are now, which training does not change: for `write_checkpoint`, beside it.
    Collective; empty on ranks other than 0."""
    state = ranks.full_state(policy)
    theirs = {parameter.data_ptr() for parameter in policy.parameters()} if ranks.world_size == 1 else set()
    return {name: tensor.clone() if tensor.data_ptr() in theirs else tensor for name, tensor in state.items()}


def write_checkpoint(
    policy: Policy, state: Mapping[str, Tensor], prompts: Prompts, canary: Canary, directory: Path
) -> str:
    """Writes weights of the policy as a checkpoint, and gives their digest. Changes nothing of the policy."""
    partial = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    policy.model.config.save_pretrained(partial)
    if policy.model.generation_config is not None:
        policy.model.generation_config.save_pretrained(partial)
    prompts.tokenizer.save_pretrained(partial)
    if prompts.template != CHAT:
        (partial / TEMPLATE_FILE).write_text(f"{prompts.template}\n", encoding="utf-8")
    tied = set(policy.model.all_tied_weights_keys)
    weights = {name: tensor.contiguous() for name, tensor in sorted(state.items()) if name not in tied}
    save_file(weights, partial / WEIGHTS_FILE, metadata={"format": "pt"})
    # save_file makes the file for its owner alone; storage is shared with engines that may run as somebody else.
    shutil.copymode(partial / "config.json", partial / WEIGHTS_FILE)
    canary.save(partial / CANARY_FILE)
    digest = weights_digest(partial)
    shutil.rmtree(directory, ignore_errors=True)
    put_in_place(partial, directory)
    return digest
