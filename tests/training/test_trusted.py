"""Models that bring code of their own: refused without a question, but for those that the operator names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dft_sweeps.data.encode import Sample
from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.training.checkpoint import make_canary, save_checkpoint
from dft_sweeps.training.model_files import EMBEDDED, end_tokens, inspect_model
from dft_sweeps.training.policy import load_policy
from dft_sweeps.training.sharding import Ranks
from dft_sweeps.training.trusted import VARIABLE, trusts
from services.weights_directory import read_layout

CODE = """\
from pathlib import Path
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Model

(Path(__file__).parent / "ran").touch()

class OwnConfig(Qwen2Config):
    model_type = "own"

class OwnModel(Qwen2Model):
    config_class = OwnConfig

class OwnForCausalLM(Qwen2ForCausalLM):
    config_class = OwnConfig
"""


def write_own_model(directory: Path) -> Path:
    """The embedded one's weights, as a model of an architecture that it brings itself."""
    shutil.copytree(EMBEDDED, directory)
    config = json.loads((directory / "config.json").read_text())
    classes = {"AutoConfig": "OwnConfig", "AutoModel": "OwnModel", "AutoModelForCausalLM": "OwnForCausalLM"}
    auto_map = {auto: f"own.{name}" for auto, name in classes.items()}
    config |= {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": auto_map}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "own.py").write_text(CODE)
    return directory


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return write_own_model(tmp_path / "own")


def test_none_is_trusted_but_those_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not trusts("") and not trusts("owner/model")
    monkeypatch.setenv(VARIABLE, "owner/model, /models/own,")
    assert trusts("owner/model") and trusts("/models/own")
    assert not trusts("") and not trusts("owner") and not trusts("/models/own/")


def test_a_directory_is_trusted_by_whatever_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v3").mkdir()
    (tmp_path / "current").symlink_to("v3")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "current")
    assert trusts("current") and trusts(str(tmp_path / "v3")) and trusts("./current/")
    assert not trusts(str(tmp_path)) and not trusts("v4")


def test_code_that_is_not_allowed_is_refused_and_not_run(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    monkeypatch.setenv(VARIABLE, "other")
    with pytest.raises(SpecError, match=f"the model models/own brings code of its own.* in {VARIABLE}"):
        inspect_model(own, "models/own")
    with pytest.raises(SpecError, match=VARIABLE):
        inspect_model(own)
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_policy(own)
    with pytest.raises(ValueError, match="trust_remote_code"):
        read_layout(own)
    assert not list(own.parent.rglob("ran"))


def test_code_that_is_allowed_is_run(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    monkeypatch.setenv(VARIABLE, "models/own")
    model = inspect_model(own, "models/own")
    assert model.trusted and not inspect_model(EMBEDDED, "embedded").trusted
    assert end_tokens(own, trusted=True) == end_tokens(EMBEDDED)
    policy = load_policy(own, trusted=True)
    assert type(policy.model).__name__ == "OwnForCausalLM"
    prompts = Prompts(AutoTokenizer.from_pretrained(own, trust_remote_code=True))
    canary = make_canary(policy, [Sample((1, 2, 3), 1)])
    save_checkpoint(policy, prompts, canary, tmp_path / "7", Ranks())
    assert read_layout(tmp_path / "7", trusted=True).shapes == read_layout(own, trusted=True).shapes
    assert make_canary(load_policy(tmp_path / "7", trusted=True), [Sample((1, 2, 3), 1)]) == canary
    (own / "own.py").write_text(f"{CODE}\n# other mathematics\n")
    assert inspect_model(own, "models/own").digest != model.digest
