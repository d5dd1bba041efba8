"""What the digest of weights covers beside tensors: whatever decides which tokens follow a prompt."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.training.checkpoint import save_checkpoint
from dft_sweeps.training.model_files import EMBEDDED, inspect_model, weights_digest
from dft_sweeps.training.policy import load_policy
from dft_sweeps.training.sharding import Ranks


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of the embedded policy, to be changed."""
    return Path(shutil.copytree(EMBEDDED, tmp_path / "model"))


def edit_config(directory: Path, **fields: Any) -> None:
    content = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(content | fields))


def edit_ends(directory: Path, ends: Any) -> None:
    file = directory / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": ends}))


def test_the_digest_of_weights_covers_what_else_decides_completions(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    edits: list[Callable[[], object]] = [
        lambda: edit_config(directory, rms_norm_eps=1e-1),
        lambda: edit_config(directory, rope_parameters=config["rope_parameters"] | {"rope_theta": 50.0}),
        lambda: edit_ends(directory, [5, 6]),
        lambda: edit_ends(directory, None),
        lambda: (directory / "generation_config.json").unlink() or edit_config(directory, eos_token_id=5),
    ]
    digests = [weights_digest(directory)]
    for edit in edits:
        edit()
        digests.append(weights_digest(directory))
        assert inspect_model(directory).weights_digest == digests[-1]
    assert len(set(digests)) == 1 + len(edits)


def test_the_digest_of_weights_leaves_out_what_decides_no_completion(directory: Path) -> None:
    edit_config(directory, transformers_version="9", torch_dtype="bfloat16", attention_dropout=0.1, eos_token_id=5)
    edit_ends(directory, [2])
    assert weights_digest(directory) == weights_digest(EMBEDDED)
    (directory / "generation_config.json").unlink()
    edit_config(directory, eos_token_id=2)
    assert weights_digest(directory) == weights_digest(EMBEDDED)


def test_the_embedded_policys_digests_are_golden(tmp_path: Path) -> None:
    """Of it, and of what was trained from it, nothing is evaluated again; its trials keep their ids."""
    weights = "c9f200506782a228ef39f4dedbde31be732e4b7727ba53281b238e81fceb5877"
    model = inspect_model(EMBEDDED)
    assert model.weights_digest == weights
    assert model.digest == "2d6286ad3b2036a2a72cf42057b8243c71a41467be32be44deec187df04f26e8"
    policy = load_policy(EMBEDDED)
    prompts = Prompts(AutoTokenizer.from_pretrained(EMBEDDED))
    canary = Canary(((1, 2),), ((-1.0,),))
    assert save_checkpoint(policy, prompts, canary, tmp_path / "1", Ranks()) == weights


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("text", ["{", "[]"])
def test_the_digest_of_settings_that_cannot_be_read_is_refused(name: str, text: str, directory: Path) -> None:
    (directory / name).write_text(text)
    with pytest.raises(SpecError, match=f"{name}: not a JSON object"):
        weights_digest(directory)
