"""A sweep of LoRA trials: its checkpoints are served as adapters of the base, and answer as the merged ones do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dft_sweeps.orchestration.engines import ADAPTER_DIRECTORY
from dft_sweeps.orchestration.prepare import prepare
from dft_sweeps.spec.load import load_sweep
from dft_sweeps.tracking.reader import Reader
from dft_sweeps.training.model_files import weights_digest
from tests.end_to_end.running import SPEC, run
from tests.end_to_end.test_sweep import completions

pytestmark = [pytest.mark.ray, pytest.mark.slow]
LORA = ("--set", "trial.train.adapter={kind: lora}", "--set", "trial.train.learning_rate=1e-2")


def test_adapters_answer_as_the_merged_checkpoints_do(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    outcome = run("run", str(SPEC), "--storage", str(tmp_path), *LORA)
    assert outcome.code == 0, outcome.text
    assert "failed" not in outcome.text.replace("0 failed", "")
    reader = Reader(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert [trial.status for trial in reader.trials(reader.find_sweep("end-to-end"))] == ["FINISHED", "FINISHED"]
    prepared = prepare(load_sweep(SPEC))
    directories = [path.parent for path in tmp_path.glob(f"trials/*/*/{ADAPTER_DIRECTORY}")]
    assert len(directories) == 2 * 2  # trials x steps
    digests = {weights_digest(directory) for directory in directories}
    assert len(digests) == len(directories)
    end = prepared.prompts.tokenizer.eos_token_id
    for directory in directories:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        for benchmark in prepared.benchmarks.values():
            rows = completions(tmp_path, weights_digest(directory), benchmark.name, 0.0)
            prompt = torch.tensor([prepared.prompts.ids(benchmark.questions[0].prompt_text)])
            output = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=96, do_sample=False,
                eos_token_id=end, pad_token_id=end,
            )  # fmt: skip
            assert output[0, prompt.shape[1] :].tolist() == list(rows[0]["token_ids"])
