from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BloomConfig,
    LlavaConfig,
    MambaConfig,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedConfig,
)

from dft_sweeps.data.tokenizer import save_tokenizer
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import ModelSpec
from dft_sweeps.training.model_files import EMBEDDED, inspect_model, resolve_model, tensor_headers, weights_digest
from dft_sweeps.training.policy import Policy
from tests.training.tiny_policy import tiny_model

WEIGHTS = "model.safetensors"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of the embedded policy, to be broken."""
    return Path(shutil.copytree(EMBEDDED, tmp_path / "model"))


def edit_config(directory: Path, **fields: Any) -> None:
    content = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(content | fields))


def edit_weights(directory: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(directory / WEIGHTS)
    edit(weights)
    save_file(weights, directory / WEIGHTS, metadata={"format": "pt"})


# --- digests ----------------------------------------------------------------------------------------------------------


def test_the_digest_of_weights_does_not_depend_on_how_they_lie_in_files(directory: Path, tmp_path: Path) -> None:
    weights = load_file(directory / WEIGHTS)
    names = sorted(weights)
    splits = {"two": [names[:5], names[5:]], "reversed": [names[5:], names[:5]], "each": [[name] for name in names]}
    for split, files in splits.items():
        (tmp_path / split).mkdir()
        for index, part in enumerate(files):
            tensors = {name: weights[name] for name in part}
            save_file(tensors, tmp_path / split / f"model-{index}.safetensors", metadata={"split": split})
        assert weights_digest(tmp_path / split) == weights_digest(directory), split


def test_the_digest_of_weights_changes_with_any_byte(directory: Path) -> None:
    original = (directory / WEIGHTS).read_bytes()
    starts = 8 + struct.unpack("<Q", original[:8])[0]
    digests = {weights_digest(directory)}
    positions = np.random.default_rng(0).integers(starts, len(original), size=10).tolist()
    for position in [starts, *positions, len(original) - 1]:
        changed = bytearray(original)
        changed[position] ^= 1
        (directory / WEIGHTS).write_bytes(changed)
        digests.add(weights_digest(directory))
    assert len(digests) == 1 + len({starts, *positions, len(original) - 1})


def test_the_digest_of_weights_covers_names_shapes_and_dtypes(tmp_path: Path) -> None:
    digests = set()
    for name, tensor in [
        ("a", torch.zeros(2, 3)),
        ("b", torch.zeros(2, 3)),
        ("a", torch.zeros(3, 2)),
        ("a", torch.zeros(2, 3, dtype=torch.int32)),
    ]:
        save_file({name: tensor}, tmp_path / WEIGHTS)
        digests.add(weights_digest(tmp_path))
    assert len(digests) == 4


def test_the_digest_of_a_model_covers_weights_configuration_and_tokenizer(directory: Path) -> None:
    original = inspect_model(directory)
    assert original.digest == inspect_model(EMBEDDED).digest
    edit_config(directory, rms_norm_eps=1e-5)
    configured = inspect_model(directory)
    tokenizer = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"model_max_length": 77}))
    tokenized = inspect_model(directory)
    edit_weights(directory, lambda weights: weights["model.norm.weight"].mul_(2))
    assert len({model.digest for model in (original, configured, tokenized, inspect_model(directory))}) == 4


# --- inspect_model ----------------------------------------------------------------------------------------------------


def test_the_embedded_policy_passes() -> None:
    model = inspect_model(EMBEDDED)
    config = json.loads((EMBEDDED / "config.json").read_text())
    assert model.context == config["max_position_embeddings"]
    assert model.parameters == sum(tensor.numel() for tensor in load_file(EMBEDDED / WEIGHTS).values())


@pytest.mark.parametrize("keep_copy", [False, True])
def test_a_tied_model_passes_with_and_without_the_copy_of_its_head(keep_copy: bool, tmp_path: Path) -> None:
    model = tiny_model(tied=True)
    model.resize_token_embeddings(400)
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path, 64)
    if keep_copy:
        edit_weights(tmp_path, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    assert inspect_model(tmp_path).parameters == sum(parameter.numel() for parameter in model.parameters())


def drop_config(directory: Path) -> None:
    (directory / "config.json").unlink()


def drop_weights(directory: Path) -> None:
    (directory / WEIGHTS).unlink()


def truncate(directory: Path) -> None:
    with (directory / WEIGHTS).open("r+b") as file:
        file.truncate((directory / WEIGHTS).stat().st_size - 1)


def truncate_header(directory: Path) -> None:
    with (directory / WEIGHTS).open("r+b") as file:
        file.truncate(100)


def write_header(text: bytes) -> Callable[[Path], None]:
    return lambda directory: (directory / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text) and None


def duplicate_tensor(directory: Path) -> None:
    save_file({"model.norm.weight": torch.zeros(128)}, directory / "other.safetensors")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (drop_config, r"no config\.json"),
    "config is not JSON": (lambda d: (d / "config.json").write_text("{"), "the model does not load"),
    "unknown model_type": (lambda d: edit_config(d, model_type="qwen99"), "the model does not load.*qwen99"),
    "no causal language model": (lambda d: edit_config(d, model_type="vit"), "the model does not load"),
    "no weights": (drop_weights, "no safetensors files"),
    "truncated": (truncate, r"model\.safetensors: truncated; \d+ bytes, its header says \d+"),
    "truncated header": (truncate_header, "not a safetensors file, or truncated"),
    "empty file": (lambda d: (d / WEIGHTS).write_bytes(b""), "not a safetensors file, or truncated"),
    "not safetensors": (lambda d: (d / WEIGHTS).write_bytes(b"PK\3\4" * 100), "not a safetensors file, or truncated"),
    "header is a list": (write_header(b"[1, 2]"), "not a safetensors file, or truncated"),
    "header without offsets": (write_header(b'{"a": {}}'), "not a safetensors file, or truncated"),
    "tensor in two files": (duplicate_tensor, r"tensor 'model\.norm\.weight' is in two files"),
    "missing tensor": (
        lambda d: edit_weights(d, lambda w: w.pop("model.norm.weight")),
        r"do not fit its config\.json: it lacks 'model\.norm\.weight'$",
    ),
    "missing head": (lambda d: edit_weights(d, lambda w: w.pop("lm_head.weight")), r"it lacks 'lm_head\.weight'$"),
    "unknown tensor": (
        lambda d: edit_weights(d, lambda w: w.update({"model.extra": torch.zeros(1)})),
        r"it has the unknown 'model\.extra'$",
    ),
    "wrong shape": (
        lambda d: edit_weights(d, lambda w: w.update({"model.norm.weight": torch.zeros(64)})),
        r"it has the wrong shape of 'model\.norm\.weight'$",
    ),
    "more layers than weights": (
        lambda d: edit_config(d, num_hidden_layers=5, layer_types=["full_attention"] * 5),
        r"it lacks 'model\.layers\.4\.[a-z_.]*' and 11 more$",
    ),
    "inconsistent config": (lambda d: edit_config(d, num_hidden_layers=5), "the model does not load.*layer_types"),
    "config of the wrong type": (lambda d: edit_config(d, hidden_size="wide"), "the model does not load.*hidden_size"),
    "tokenizer too large": (
        lambda d: (
            edit_config(d, vocab_size=300),
            edit_weights(d, lambda w: w.update({n: w[n][:300].clone() for n in w if w[n].shape[0] == 384})),
        ),
        "the tokenizer has 384 tokens, the model only 300",
    ),
    "no tokenizer": (lambda d: [file.unlink() for file in d.glob("tokenizer*")], "no tokenizer files"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_model_that_would_not_load_is_refused(case: str, directory: Path) -> None:
    breaks, message = BROKEN[case]
    breaks(directory)
    with pytest.raises(SpecError, match=message) as caught:
        inspect_model(directory)
    assert str(caught.value).startswith(str(directory))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LlavaConfig(text_config={"model_type": "llama"}), "llava is made of several models"),
        (BloomConfig(), "bloom has no positions, so packed samples cannot be told apart"),
        (MambaConfig(), "mamba has no positions"),
    ],
)
def test_architectures_that_cannot_be_trained_are_refused_by_name(
    config: PreTrainedConfig, message: str, directory: Path
) -> None:
    config.save_pretrained(directory)
    with pytest.raises(SpecError, match=message):
        inspect_model(directory)


def test_a_head_with_a_bias_is_refused(tmp_path: Path) -> None:
    shape = {"vocab_size": 400, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    model = PhiForCausalLM(PhiConfig(**shape, num_attention_heads=2))
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path, 64)
    for refused in (lambda: inspect_model(tmp_path), lambda: Policy(model)):
        with pytest.raises(SpecError, match="output head has a bias, which is not supported"):
            refused()


@pytest.mark.parametrize("name", ["final_logit_softcapping", "logit_scale", "logits_scaling"])
def test_a_head_that_changes_its_logits_is_refused(name: str, directory: Path) -> None:
    edit_config(directory, **{name: 1.0})
    inspect_model(directory)
    edit_config(directory, **{name: 30.0})
    with pytest.raises(SpecError, match=f"sets {name}, which is not supported"):
        inspect_model(directory)


# --- resolve_model ----------------------------------------------------------------------------------------------------


def test_models_are_found_embedded_by_path_and_beside_the_spec(directory: Path, tmp_path: Path) -> None:
    assert resolve_model(ModelSpec(), tmp_path) == EMBEDDED
    for path in ("model", "./model", str(directory)):
        assert resolve_model(ModelSpec(path=path), tmp_path).samefile(directory)


@pytest.mark.parametrize("path", ["./nowhere", "../nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_directory_that_is_not_there_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no model directory"):
        resolve_model(ModelSpec(path=path), tmp_path)


def test_a_file_is_no_model(directory: Path) -> None:
    with pytest.raises(SpecError, match=r"'config\.json' is a file; give the directory that holds config\.json"):
        resolve_model(ModelSpec(path="config.json"), directory)


@pytest.mark.parametrize("path", ["someone/some-model", "some-model", "not a hub id!"])
def test_a_hub_model_that_cannot_be_fetched_is_refused(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SpecError, match=f"no directory .*and the hub does not give model '{path}'") as caught:
        resolve_model(ModelSpec(path=path), tmp_path)
    assert "\n" not in str(caught.value)


def test_headers_name_every_tensor_without_reading_it(directory: Path) -> None:
    weights = load_file(directory / WEIGHTS)
    headers = tensor_headers(directory)
    assert {name: entry["shape"] for name, (_, entry, _) in headers.items()} == {
        name: list(tensor.shape) for name, tensor in weights.items()
    }
