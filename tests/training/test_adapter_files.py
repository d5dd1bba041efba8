"""Adapters on disk: peft puts them on the base as they were trained, and their digest says which policy they make."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.spec.models import LoraSpec
from dft_sweeps.training import adapter_files
from dft_sweeps.training.adapter_files import adapter_digest, save_adapter
from dft_sweeps.training.checkpoint import make_canary
from dft_sweeps.training.lora import add_adapters
from dft_sweeps.training.policy import Policy, target_logprobs
from dft_sweeps.training.sharding import Ranks
from tests.data.durably import require_durable
from tests.training.architectures import tiny
from tests.training.test_lora import adapted_policy, packed, trained
from tests.training.tiny_policy import random_samples, tiny_model
from tests.training.two_ranks import start

LORA = LoraSpec(kind="lora", rank=4, alpha=6.0)


def _save(policy: Policy, directory: Path, base_digest: str = "base") -> str:
    return save_adapter(policy, base_digest, make_canary(policy, random_samples(4)), directory, Ranks())


@pytest.mark.parametrize("name", ["qwen2", "qwen2_tied", "llama", "gpt2", "gpt_neox"])
def test_peft_puts_a_saved_adapter_on_the_base_as_it_was_trained(name: str, tmp_path: Path) -> None:
    policy = trained(adapted_policy(tiny(name), LORA))
    _save(policy, tmp_path / "1")
    loaded = PeftModel.from_pretrained(tiny(name), tmp_path / "1").get_base_model()
    found, expected = target_logprobs(Policy(loaded), packed()), target_logprobs(policy, packed())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (expected - target_logprobs(Policy(tiny(name)), packed())).abs().max() > 0.1


def test_only_the_adapter_is_written(tmp_path: Path) -> None:
    policy = trained(adapted_policy(tiny_model(), LoraSpec(kind="lora", rank=4, alpha=6.0, target=("q_proj",))))
    require_durable(lambda place: _save(policy, place), tmp_path / "1")
    assert sorted(file.name for file in (tmp_path / "1").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "canary.json",
    ]
    matrices = load_file(tmp_path / "1" / "adapter_model.safetensors")
    layers = [f"base_model.model.model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)]
    assert {name: tuple(matrix.shape) for name, matrix in matrices.items()} == {
        f"{layer}.lora_{matrix}.weight": (4, 32) if matrix == "A" else (32, 4) for layer in layers for matrix in "AB"
    }
    config = json.loads((tmp_path / "1" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 6.0)


def test_the_canary_is_the_adapted_policys(tmp_path: Path) -> None:
    policy = trained(adapted_policy(tiny_model()))
    _save(policy, tmp_path / "1")
    canary = Canary.load(tmp_path / "1" / "canary.json")
    assert canary == make_canary(policy, random_samples(4)) != make_canary(Policy(tiny_model()), random_samples(4))


def test_the_digest_tells_bases_matrices_and_scales_apart_and_nothing_else(tmp_path: Path) -> None:
    policy = trained(adapted_policy(tiny_model(), LORA))
    digest = _save(policy, tmp_path / "1")
    assert digest == adapter_digest("base", tmp_path / "1") == _save(policy, tmp_path / "2")
    other_base = adapter_digest("other", tmp_path / "1")
    other_weights = _save(trained(policy, steps=1), tmp_path / "3")
    file = shutil.copytree(tmp_path / "1", tmp_path / "4") / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 12.0}))
    other_scale = adapter_digest("base", tmp_path / "4")
    assert len({digest, other_base, other_weights, other_scale}) == 4
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 6, "peft_version": "0"}))
    assert adapter_digest("base", tmp_path / "4") == digest


def test_a_config_without_rank_is_refused(tmp_path: Path) -> None:
    _save(adapted_policy(tiny_model()), tmp_path / "1")
    (tmp_path / "1" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"adapter_config\.json: names no rank"):
        adapter_digest("base", tmp_path / "1")


def test_bfloat16_matrices_are_kept(tmp_path: Path) -> None:
    model = tiny_model().to(torch.bfloat16)
    add_adapters(model, LORA, seed=0)
    _save(Policy(model, torch.bfloat16), tmp_path / "1")
    matrices = load_file(tmp_path / "1" / "adapter_model.safetensors").values()
    assert {matrix.dtype for matrix in matrices} == {torch.bfloat16}


def test_a_save_that_fails_leaves_the_adapter_before_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = trained(adapted_policy(tiny_model()))
    digest = _save(policy, tmp_path / "7")

    def full_disk(*arguments: object, **settings: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
        patched.setattr(adapter_files, "save_file", full_disk)
        _save(trained(policy), tmp_path / "7")
    assert adapter_digest("base", tmp_path / "7") == digest
    assert _save(trained(policy), tmp_path / "7") == adapter_digest("base", tmp_path / "7") != digest
    assert [path.name for path in tmp_path.iterdir()] == ["7"]


def test_files_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        _save(adapted_policy(tiny_model()), tmp_path / "7")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "7").iterdir()} == {0o640}


def test_sharded_ranks_write_the_adapter_that_one_rank_writes(tmp_path: Path) -> None:
    """The random matrices of a fresh adapter, saved by two ranks that hold half of each."""
    start(2, _save_in_group, tmp_path, timeout_s=120)
    model = tiny_model()
    add_adapters(model, LORA, seed=0)
    expected = _save(Policy(model), tmp_path / "one")
    assert adapter_digest("base", tmp_path / "two") == expected
    assert [(tmp_path / f"digest-{rank}").read_text() for rank in range(2)] == [expected, ""]


def _save_in_group(ranks: Ranks, directory: Path) -> None:
    model = tiny_model()
    add_adapters(model, LORA, seed=0)
    policy = ranks.shard(Policy(model))
    digest = save_adapter(policy, "base", make_canary(policy, random_samples(4)), directory / "two", ranks)
    (directory / f"digest-{ranks.rank}").write_text(digest)
