"""What a LoRA adapter directory in peft's format holds, read from its headers, so that a bad one is refused unread."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from dft_sweeps.training.model_files import tensor_headers
from services.weights_directory import WeightsLayout

_CONFIG_FILE, _WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_MATRIX = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<matrix>[AB])\.weight")
_NOT_SERVED = {
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
}
"""Keys of adapter_config.json that would make it more than plain LoRA of one rank and scale, and their plain values."""


def require_adapter_fits(base: WeightsLayout, directory: Path, max_rank: int) -> None:
    """Raises ValueError naming the file and what is wrong when `directory` holds no adapter for an engine on `base`."""
    rank = _rank(_read_config(directory / _CONFIG_FILE), directory / _CONFIG_FILE)
    file = directory / _WEIGHTS_FILE
    if rank > max_rank:
        raise ValueError(f"{directory}: an adapter of rank {rank}; this engine takes ranks up to {max_rank}")
    headers = tensor_headers(directory)
    if strangers := sorted(name for name in headers if not _MATRIX.fullmatch(name)):
        raise ValueError(f"{file}: {strangers[0]!r} is no LoRA matrix in peft's format")
    if not headers:
        raise ValueError(f"{file}: holds no LoRA matrices")
    shapes = {name: tuple(entry["shape"]) for name, (_, entry, _) in headers.items()}
    for layer in sorted({match["layer"] for name in shapes if (match := _MATRIX.fullmatch(name))}):
        _require_layer(base, shapes, layer, rank, file)


def _read_config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{file.parent}: not an adapter directory, {file.name} is missing")
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error})") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ValueError(f"{file}: not the configuration of a LoRA adapter")
    return config


def _rank(config: dict[str, Any], file: Path) -> int:
    """The rank of a plain LoRA adapter."""
    for key, plain in _NOT_SERVED.items():
        if config.get(key, plain[0]) not in plain:
            raise ValueError(f"{file}: {key} is {config[key]!r}; only plain LoRA is served")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise ValueError(f"{file}: r={rank!r} and lora_alpha={alpha!r} must be a rank and a scale")
    return rank


def _require_layer(base: WeightsLayout, shapes: dict[str, tuple[int, ...]], layer: str, rank: int, file: Path) -> None:
    """Raises ValueError unless both matrices of the layer are there and their product has the shape of its weight."""
    weight = base.shapes.get(f"{layer}.weight")
    if weight is None or len(weight) != 2 or layer.rpartition(".")[2] in ("lm_head", "embed_tokens"):
        raise ValueError(f"{file}: the engine's model has no linear layer {layer!r} that takes an adapter")
    found = [shapes.get(f"base_model.model.{layer}.lora_{matrix}.weight") for matrix in "AB"]
    expected = [(rank, weight[1]), (weight[0], rank)]
    if found != expected:
        raise ValueError(
            f"{file}: layer {layer!r} of shape {weight} has matrices A, B of shapes {found}, not {expected}"
        )
