"""What ends a completion on engines: exactly what vLLM ends it at, so that it can be compared and recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from transformers import AutoTokenizer

from dft_sweeps.cli.engines import stop_tokens
from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.training.model_files import EMBEDDED


def test_stops_are_the_templates_and_those_of_the_directory(tmp_path: Path) -> None:
    directory = Path(shutil.copytree(EMBEDDED, tmp_path / "model"))
    prompts = Prompts(AutoTokenizer.from_pretrained(EMBEDDED))
    assert stop_tokens(prompts, directory) == (2,)
    settings = json.loads((directory / "generation_config.json").read_text())
    (directory / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [7, 5]}))
    assert stop_tokens(prompts, directory) == (2, 5, 7)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"eos_token_id": 9}))
    assert stop_tokens(prompts, directory) == (2, 5, 7)
    (directory / "generation_config.json").unlink()  # then vLLM takes the configuration's
    assert stop_tokens(prompts, directory) == (2, 9)
