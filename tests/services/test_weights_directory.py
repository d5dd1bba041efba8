"""Bad checkpoint directories are refused by their headers, with the file named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from services.weights_directory import read_layout, require_same_layout
from tests.services.random_policies import Checkpoint, make_checkpoint


@pytest.fixture
def directory(checkpoints: list[Checkpoint], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints[1].directory, tmp_path / "copy"))


def _truncate(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _cut_header(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])


def _empty(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"")


def _remove_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def _name_missing_shard(directory: Path) -> None:
    index = {"weight_map": {"lm_head.weight": "model.safetensors", "model.norm.weight": "model-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def _remove_config(directory: Path) -> None:
    (directory / "config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "truncated"),
        (_cut_header, "truncated"),
        (_empty, "truncated"),
        (_remove_weights, "no safetensors files"),
        (_name_missing_shard, r"missing weights file\(s\) model-00002.safetensors"),
        (_remove_config, "config.json is missing"),
    ],
)
def test_damaged_directory_is_refused(directory: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(directory)
    with pytest.raises(ValueError, match=message):
        read_layout(directory)


def test_other_spelling_and_inert_keys_are_the_same_layout(checkpoints: list[Checkpoint], directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    rope = config.pop("rope_parameters")
    older = config | {"transformers_version": "4.44.0", "torch_dtype": "bfloat16", "pad_token_id": 0}
    older["rope_theta"] = rope["rope_theta"]
    (directory / "config.json").write_text(json.dumps(older))
    require_same_layout(read_layout(Path(checkpoints[0].directory)), read_layout(directory), directory)


@pytest.mark.parametrize(
    ("key", "value"), [("rms_norm_eps", 1e-5), ("num_attention_heads", 2), ("model_type", "llama")]
)
def test_other_architecture_is_refused(checkpoints: list[Checkpoint], directory: Path, key: str, value: object) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ValueError, match=f"config {key}"):
        require_same_layout(read_layout(Path(checkpoints[0].directory)), read_layout(directory), directory)


def test_other_shapes_are_refused(checkpoints: list[Checkpoint], tmp_path: Path) -> None:
    other = Path(make_checkpoint(tmp_path, seed=0, tied=True, vocab_size=640).directory)
    with pytest.raises(ValueError, match="config vocab_size") as refusal:
        require_same_layout(read_layout(Path(checkpoints[0].directory)), read_layout(other), other)
    assert "config tie_word_embeddings" in str(refusal.value)
    assert "tensor lm_head.weight: engine has (384, 128), checkpoint has None" in str(refusal.value)
