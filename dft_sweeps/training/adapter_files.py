"""Adapters as files: a directory in peft's format that holds a LoRA policy's trained matrices alone, with its canary.

An adapter is written beside its place and renamed into it once it is on the disk, so a directory under its final name
is always whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from dft_sweeps.data.durable import put_in_place
from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.training.checkpoint import CANARY_FILE
from dft_sweeps.training.lora import adapted
from dft_sweeps.training.model_files import weights_digest
from dft_sweeps.training.policy import Policy
from dft_sweeps.training.sharding import Ranks

ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


def save_adapter(policy: Policy, base_digest: str, canary: Canary, directory: Path, ranks: Ranks) -> str:
    """Writes the policy's adapter to `directory` and gives its digest. Collective; rank 0 writes.

    The matrices keep the dtype they are trained in. An adapter already there under the same name is replaced. Other
    ranks return an empty digest.

    Args:
        base_digest: the weights digest of the model that the adapter was put on.
        canary: made by the policy with its adapter.
    """
    layers = adapted(policy.model)
    assert layers, "the policy has no adapter"
    matrices = {_peft_name(name): _whole(parameter) for name, parameter in policy.trained_parameters()}
    if ranks.rank != 0:
        return ""
    partial = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (config,) = policy.model.peft_config.values()
    _write_config(config, any(layer.fan_in_fan_out for layer in layers.values()), partial)
    save_file(matrices, partial / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})
    # save_file makes the file for its owner alone; storage is shared with engines that may run as somebody else.
    shutil.copymode(partial / ADAPTER_CONFIG_FILE, partial / ADAPTER_WEIGHTS_FILE)
    canary.save(partial / CANARY_FILE)
    digest = adapter_digest(base_digest, partial)
    shutil.rmtree(directory, ignore_errors=True)
    put_in_place(partial, directory)
    return digest


def adapter_digest(base_digest: str, directory: Path) -> str:
    """SHA-256 of what an adapter makes of a base: the base's weights digest, the matrices and their scale.

    Raises:
        SpecError: no safetensors files, or truncated ones.
        ValueError: `adapter_config.json` does not name a rank and an alpha.
    """
    file = directory / ADAPTER_CONFIG_FILE
    config = json.loads(file.read_text())
    if not isinstance(config, dict) or not {"r", "lora_alpha"} <= config.keys():
        raise ValueError(f"{file}: names no rank (r) and scale (lora_alpha)")
    content = [base_digest, weights_digest(directory), config["r"], float(config["lora_alpha"])]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _peft_name(name: str) -> str:
    """peft's name of a matrix in files: below the two models it wraps ours in, without the adapter's own name."""
    layer, _, matrix = name.rpartition(".lora_")
    return f"base_model.model.{layer}.lora_{matrix[0]}.weight"


def _whole(parameter: Tensor) -> Tensor:
    """A copy on the CPU of a matrix that may be sharded (collective if it is)."""
    whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
    return whole.detach().cpu().clone().contiguous()


def _write_config(config: LoraConfig, fan_in_fan_out: bool, directory: Path) -> None:
    """peft's own file, with the layers in order: peft keeps them in a set, which has none."""
    content = config.to_dict() | {"fan_in_fan_out": fan_in_fan_out, "target_modules": sorted(config.target_modules)}
    (directory / ADAPTER_CONFIG_FILE).write_text(json.dumps(content, indent=2, sort_keys=True))
