from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from dft_sweeps.data.arithmetic import LEVELS
from dft_sweeps.training.base_model import main, measure
from dft_sweeps.training.model_files import EMBEDDED, weights_digest


def test_the_shipped_policy_is_small_untied_and_says_its_dtype() -> None:
    assert sum(file.stat().st_size for file in EMBEDDED.iterdir()) < 4_000_000
    config = AutoConfig.from_pretrained(EMBEDDED)
    assert (config.model_type, config.tie_word_embeddings, config.dtype) == ("qwen2", False, torch.float32)
    with safe_open(EMBEDDED / "model.safetensors", "pt") as weights:
        tensors = [weights.get_tensor(name) for name in weights.keys()]  # noqa: SIM118 (not a mapping)
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert 0.8e6 < sum(tensor.numel() for tensor in tensors) < 1.2e6


def test_the_shipped_policy_stops_at_the_tokenizers_end_of_turn() -> None:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    config = AutoConfig.from_pretrained(EMBEDDED)
    generation = GenerationConfig.from_pretrained(EMBEDDED)
    assert config.vocab_size == len(tokenizer)
    assert generation.eos_token_id == config.eos_token_id == tokenizer.eos_token_id
    assert generation.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_shipped_policy_is_worth_fine_tuning() -> None:
    """Sampling is right between 10% and 60% of the time on at least two levels, and never always wrong."""
    sampled = [accuracy for accuracy, _ in measure(EMBEDDED, 150, seed=0).values()]
    assert len(sampled) == len(LEVELS) and min(sampled) > 0.05
    assert sum(0.10 <= accuracy <= 0.60 for accuracy in sampled) >= 2


def test_the_command_is_deterministic_and_says_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = [
        "--steps",
        "3",
        "--batch-size",
        "8",
        "--problems",
        "2",
        "--threads",
        str(torch.get_num_threads()),
    ]
    main(["--out", str(tmp_path / "one"), *short])
    main(["--out", str(tmp_path / "two"), *short])
    main(["--out", str(tmp_path / "three"), *short, "--seed", "1"])
    one, two, three = (weights_digest(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two != three
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "three", "two"]
    printed = capsys.readouterr().out
    assert "level 3: 0.0% right at temperature 1.0" in printed and "936,064 parameters" in printed
