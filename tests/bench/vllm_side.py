"""The peer of the pool: `vllm.LLM` in one process, under the engine's own settings and environment.

Started by `SideProcess`; commands are the methods of `VllmSide`.
"""

from __future__ import annotations

import time
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from tests.bench.policies import fingerprint, read_requests
from tests.bench.side_process import serve, standard_streams

if TYPE_CHECKING:
    from dft_sweeps.evaluation.generator import Request


class VllmSide:
    """One engine, for the life of the process."""

    def start(self, model: str, engine: dict[str, Any]) -> None:
        """`engine` are fields of EngineSettings."""
        from services.engine_settings import EngineSettings, set_environment

        settings = EngineSettings(**engine | {"stop_token_ids": tuple(engine["stop_token_ids"])})
        set_environment(settings)
        from vllm import LLM

        self.stops = list(settings.stop_token_ids)
        self.llm = LLM(**llm_arguments(settings, model))

    def generate(self, requests: str, warm_up: str, logprobs: bool) -> dict[str, float | int | str]:
        """Seconds, tokens and their hash of one call, with nothing in the prefix cache that an earlier one left."""
        asked = read_requests(requests)
        self._run(read_requests(warm_up), logprobs)
        self.llm.reset_prefix_cache()
        before = time.perf_counter()
        completions = self._run(asked, logprobs)
        seconds = time.perf_counter() - before
        return {"seconds": seconds, **fingerprint(completions)}

    def first_token(self, requests: str) -> int:
        [[completion]] = self._run(read_requests(requests), logprobs=True)
        return len(completion)

    def _run(self, requests: list[Request], logprobs: bool) -> list[list[list[int]]]:
        from vllm import SamplingParams, TokensPrompt

        kept: Any = {"logprobs": 0, "flat_logprobs": True} if logprobs else {}
        sampling = [
            SamplingParams(
                n=request.n,
                temperature=request.temperature,
                top_p=request.top_p,
                seed=request.seed,
                max_tokens=request.max_new_tokens,
                stop_token_ids=self.stops,
                detokenize=False,
                **kept,
            )
            for request in requests
        ]
        prompts = [TokensPrompt(prompt_token_ids=list(request.prompt)) for request in requests]
        outputs = self.llm.generate(prompts, sampling, use_tqdm=False)
        return [[list(each.token_ids) for each in output.outputs] for output in outputs]


def llm_arguments(settings: Any, model: str) -> dict[str, Any]:
    """The engine's arguments as LLM takes them: those that are not vLLM's defaults."""
    from vllm.engine.arg_utils import EngineArgs

    from services.engine_settings import engine_args

    chosen, plain = engine_args(settings, model), EngineArgs(model=model)
    names = [field.name for field in fields(chosen) if field.init]
    told = {name: getattr(chosen, name) for name in names if getattr(chosen, name) != getattr(plain, name)}
    return told | {"model": model}


def main() -> None:
    asked, answers = standard_streams()
    side = VllmSide()
    serve({name: getattr(side, name) for name in ("start", "generate", "first_token")}, asked, answers)


if __name__ == "__main__":
    main()
