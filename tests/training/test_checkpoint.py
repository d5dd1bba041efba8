from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from dft_sweeps.data.encode import Sample
from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.training import checkpoint as checkpoint_module
from dft_sweeps.training.checkpoint import CANARY_FILE, WEIGHTS_FILE, make_canary, save_checkpoint
from dft_sweeps.training.model_files import EMBEDDED, inspect_model, weights_digest
from dft_sweeps.training.policy import Policy, load_policy
from dft_sweeps.training.sharding import Ranks
from tests.data.durably import require_durable
from tests.training.tiny_policy import random_samples, tiny_model

IDS = torch.arange(3, 43).reshape(2, 20)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(EMBEDDED)


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def save(policy: Policy, tokenizer: PreTrainedTokenizerBase, directory: Path) -> str:
    return save_checkpoint(policy, Prompts(tokenizer), make_canary(policy, random_samples(6)), directory, Ranks())


@pytest.mark.parametrize("tied", [False, True])
def test_transformers_loads_a_checkpoint_with_the_same_logits(
    tied: bool, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    policy = Policy(tiny_model(tied=tied))
    save(policy, tokenizer, tmp_path / "7")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "7")
    assert loaded.config.tie_word_embeddings is tied and loaded.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=IDS).logits, policy.model(input_ids=IDS).logits)
    with safe_open(tmp_path / "7" / WEIGHTS_FILE, "pt") as weights:
        assert ("lm_head.weight" in weights.keys()) is not tied  # noqa: SIM118 (not a mapping)
    again = AutoTokenizer.from_pretrained(tmp_path / "7")
    turn = [{"role": "user", "content": "1 + 1?"}]
    assert again.apply_chat_template(turn) == tokenizer.apply_chat_template(turn)


def test_a_checkpoint_is_a_model_like_the_one_it_came_from(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """The embedded policy, loaded and saved untrained: another sweep can start from it, and its digest is the same."""
    base = inspect_model(EMBEDDED)
    digest = save(load_policy(EMBEDDED), tokenizer, tmp_path / "0")
    saved = inspect_model(tmp_path / "0")
    assert digest == saved.weights_digest == base.weights_digest
    assert (saved.parameters, saved.context) == (base.parameters, base.context)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "0" / name).read_text()) == json.loads((EMBEDDED / name).read_text())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_canary_is_what_transformers_says_of_the_saved_weights_in_float32(
    dtype: torch.dtype, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    samples = [Sample((5, 2), 1), *random_samples(6)]
    policy = Policy(tiny_model(), dtype)
    save_checkpoint(policy, Prompts(tokenizer), make_canary(policy, samples), tmp_path / "7", Ranks())
    canary = Canary.load(tmp_path / "7" / CANARY_FILE)
    assert canary.prompts == tuple(sample.ids[:48] for sample in samples[:4])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "7", dtype=torch.float32)
    for prompt, row in zip(canary.prompts, canary.logprobs, strict=True):
        with torch.no_grad():
            logp = model(input_ids=torch.tensor([prompt])).logits[0].log_softmax(-1)
        assert row == pytest.approx([logp[i, token].item() for i, token in enumerate(prompt[1:])], abs=1e-5)


def test_the_canary_tells_neighbouring_checkpoints_apart() -> None:
    policy, samples = Policy(tiny_model()), random_samples(6)
    before = make_canary(policy, samples)
    assert make_canary(policy, samples) == before
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(1e-4 * torch.sign(parameter))
    after = make_canary(policy, samples)
    pairs = zip(sum(before.logprobs, ()), sum(after.logprobs, ()), strict=True)
    assert max(abs(one - two) for one, two in pairs) > 1e-3


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077], indirect=True)
def test_files_have_the_permissions_of_the_umask(
    umask: int, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    save(Policy(tiny_model()), tokenizer, tmp_path / "7")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "7").iterdir()}
    assert modes == dict.fromkeys(modes, 0o666 & ~umask) and WEIGHTS_FILE in modes
    assert stat.S_IMODE((tmp_path / "7").stat().st_mode) == 0o777 & ~umask


def test_the_directory_appears_only_when_it_is_whole(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "7"

    def last_thing_before_the_rename(partial: Path) -> str:
        assert not target.exists()
        assert partial.parent == target.parent and partial.name.startswith(".")
        return weights_digest(partial)

    monkeypatch.setattr(checkpoint_module, "weights_digest", last_thing_before_the_rename)
    digests: list[str] = []
    require_durable(lambda place: digests.append(save(Policy(tiny_model()), tokenizer, place)), target)
    assert digests == [weights_digest(target)]
    assert [path.name for path in tmp_path.iterdir()] == ["7"]


def test_a_save_that_fails_leaves_the_checkpoint_before_it_alone(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = save(Policy(tiny_model()), tokenizer, tmp_path / "7")

    def full_disk(*arguments: object, **settings: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
        patched.setattr(checkpoint_module, "save_file", full_disk)
        save(Policy(tiny_model(seed=1)), tokenizer, tmp_path / "7")
    assert weights_digest(tmp_path / "7") == digest
    assert save(Policy(tiny_model(seed=1)), tokenizer, tmp_path / "7") == weights_digest(tmp_path / "7") != digest
    assert [path.name for path in tmp_path.iterdir()] == ["7"]
