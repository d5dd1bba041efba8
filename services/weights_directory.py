"""What a Hugging Face checkpoint directory holds, read from its headers, so that a bad one is refused unread.

A weights reload that fails half-way leaves the engine unusable: everything that can be known beforehand is checked
here, without torch and without reading a single weight.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dft_sweeps.training.model_files import INERT_KEYS, tensor_headers


@dataclass(frozen=True)
class WeightsLayout:
    """What two checkpoints must share for one engine to hold either: the configuration, tensor names and shapes."""

    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]

    @property
    def tied(self) -> bool:
        """Whether the output matrix is the embedding matrix."""
        return bool(self.config["tie_word_embeddings"])


def read_layout(directory: Path, trusted: bool = False) -> WeightsLayout:
    """Reads the layout of `directory`. Raises ValueError, naming the file, on anything missing, cut off or unreadable.
    `trusted`: whether code that it brings is run.

    The configuration goes through transformers, which gives old and new spellings of a field one form.
    """
    if not (directory / "config.json").is_file():
        raise ValueError(f"{directory}: not a checkpoint directory, config.json is missing")
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=trusted).to_dict()
    except (OSError, KeyError) as error:
        raise ValueError(f"{directory / 'config.json'}: {error}") from error
    _require_shards(directory)
    shapes = {name: tuple(entry["shape"]) for name, (_, entry, _) in tensor_headers(directory).items()}
    return WeightsLayout(config={key: value for key, value in config.items() if key not in INERT_KEYS}, shapes=shapes)


def require_same_layout(loaded: WeightsLayout, candidate: WeightsLayout, directory: Path) -> None:
    """Raises ValueError naming each difference when the engine that holds `loaded` cannot hold `candidate`."""
    differences = [
        f"config {key}: engine has {loaded.config.get(key)!r}, checkpoint has {candidate.config.get(key)!r}"
        for key in sorted(loaded.config.keys() | candidate.config.keys())
        if loaded.config.get(key) != candidate.config.get(key)
    ]
    differences += [
        f"tensor {name}: engine has {loaded.shapes.get(name)}, checkpoint has {candidate.shapes.get(name)}"
        for name in sorted(loaded.shapes.keys() | candidate.shapes.keys())
        if loaded.shapes.get(name) != candidate.shapes.get(name)
    ]
    if differences:
        raise ValueError(
            f"{directory}: does not fit the running engine: "
            + "; ".join(differences[:5])
            + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        )


def _require_shards(directory: Path) -> None:
    """Raises ValueError where a file that the checkpoint's index names is missing."""
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (json.JSONDecodeError, KeyError, AttributeError) as error:
        raise ValueError(f"{index}: not a safetensors index ({error!r})") from error
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise ValueError(f"{directory}: missing weights file(s) {', '.join(missing)}")
