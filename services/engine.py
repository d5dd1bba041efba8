"""One vLLM engine inside the calling process: samples from the weights it holds and swaps them in place.

vLLM's own engine process is not used: the process that owns this object is already a separate actor, and one process
less saves 10-16 s of imports at start and leaves nothing behind when the actor dies.

Failure semantics: after `reload` raised anything, or `generate` anything but ValueError and `Cancelled`, the engine's
state is unknown and its owner must throw the process away.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from dft_sweeps.evaluation.generator import Canary, Completion, Request
from services.engine_settings import EngineSettings, engine_args, set_environment
from services.weights_directory import read_layout, require_same_layout

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.sampling_params import SamplingParams


class CanaryError(RuntimeError):
    """The engine's log-probabilities are not those of the checkpoint it was told to load."""


class Cancelled(RuntimeError):
    """Generation was stopped because its caller went away."""


class VllmEngine:
    """A vLLM engine that holds the weights of one directory at a time. Not thread-safe."""

    def __init__(self, settings: EngineSettings, model_directory: str) -> None:
        """Starts vLLM on `model_directory` (10 s on two cores, most of it imports). Raises ValueError on a bad one."""
        set_environment(settings)
        self._settings = settings
        self._layout = read_layout(Path(model_directory))
        from vllm.v1.engine.llm_engine import LLMEngine

        self._engine = LLMEngine.from_engine_args(engine_args(settings, model_directory))
        self._request_ids = count()
        block_size = self._engine.vllm_config.cache_config.block_size
        self._probe_length = min(block_size + 1, settings.max_model_len - 1)

    def generate(self, requests: Sequence[Request], cancelled: Event) -> list[list[Completion]]:
        """Samples all requests together; the i-th list holds the completions of `requests[i]` in seed order.

        Raises ValueError naming the request whose prompt leaves no room in the context, `Cancelled` once the event
        is set. A completion that meets the end of the context ends there with "length".
        """
        for index, request in enumerate(requests):
            self._require_room(request.prompt, f"request {index}")
        outputs = self._run([(request.prompt, self._sampling(request)) for request in requests], cancelled)
        return [[_completion(output) for output in result.outputs] for result in outputs]

    def require_loadable(self, directory: str, canary: Canary) -> None:
        """Raises ValueError when `reload` of these cannot work: what can be known without touching the engine."""
        require_same_layout(self._layout, read_layout(Path(directory)), Path(directory))
        for index, prompt in enumerate(canary.prompts):
            self._require_room(prompt, f"canary prompt {index}")
        if not canary.prompts:
            raise ValueError("the canary has no prompts, so it proves nothing")

    def reload(self, directory: str, canary: Canary) -> float:
        """Replaces the weights by those of `directory`; returns the canary's largest difference in nats.

        Raises `CanaryError` when the weights then held are not those the canary was made for, and whatever vLLM
        raises: after any error the engine holds nothing usable.
        """
        self._probe(canary)  # leaves a block of the old weights' attention states in the prefix cache
        self._engine.collective_rpc("reload_weights", kwargs={"weights_path": directory})
        if self._layout.tied and self._settings.device == "cpu":
            self._engine.collective_rpc(_repack_output_matrix)
        self._reset_prefix_cache()
        return self._require_canary(canary, directory)

    def _reset_prefix_cache(self) -> None:
        """Forgets the old weights' attention states. vLLM answers False when some block is still in use."""
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache")

    def _require_canary(self, canary: Canary, directory: str) -> float:
        """Compares prompt log-probabilities with the canary's, and the cached path with the uncached one."""
        difference = max(
            abs(expected - actual)
            for row, actual_row in zip(canary.logprobs, self._prompt_logprobs(canary), strict=True)
            for expected, actual in zip(row, actual_row, strict=True)
        )
        # Prompt log-probabilities bypass the prefix cache: only a sampled token shows a stale block.
        stale = abs(self._probe(canary) - self._probe(canary, skip_reading_prefix_cache=True))
        tolerance = self._settings.canary_tolerance
        if not difference <= tolerance or not stale <= tolerance:
            raise CanaryError(
                f"after loading {directory} the canary differs by {difference:.3g} nats and the prefix "
                f"cache by {stale:.3g}; {tolerance:g} is allowed: these are not that checkpoint's weights"
            )
        return max(difference, stale)

    def _prompt_logprobs(self, canary: Canary) -> list[list[float]]:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        sampling = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        outputs = self._run([(prompt, sampling) for prompt in canary.prompts], Event())
        rows: list[Any] = [output.prompt_logprobs for output in outputs]
        return [
            [entry[token].logprob for token, entry in zip(prompt[1:], row[1:], strict=True)]
            for prompt, row in zip(canary.prompts, rows, strict=True)
        ]

    def _probe(self, canary: Canary, skip_reading_prefix_cache: bool = False) -> float:
        """Log-probability of one fixed token after a prompt long enough to fill, or reuse, a prefix-cache block."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        tokens = [token for prompt in canary.prompts for token in prompt]
        prompt = (tokens * (self._probe_length // len(tokens) + 1))[: self._probe_length]
        sampling = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            logprobs=1,
            logprob_token_ids=[tokens[0]],
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_reading_prefix_cache=skip_reading_prefix_cache,
        )
        [output] = self._run([(tuple(prompt), sampling)], Event())
        logprobs: Any = output.outputs[0].logprobs
        return float(logprobs[0][tokens[0]].logprob)

    def _sampling(self, request: Request) -> SamplingParams:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        return SamplingParams(
            n=request.n,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            max_tokens=request.max_new_tokens,
            stop_token_ids=list(self._settings.stop_token_ids),
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _require_room(self, prompt: tuple[int, ...], what: str) -> None:
        if not 0 < len(prompt) < self._settings.max_model_len:
            raise ValueError(
                f"{what}: a prompt of {len(prompt)} tokens, the engine takes 1 to "
                f"{self._settings.max_model_len - 1} (max_model_len - 1)"
            )
        vocabulary = self._layout.config["vocab_size"]
        if not 0 <= min(prompt) <= max(prompt) < vocabulary:
            raise ValueError(f"{what}: token ids must lie in [0, {vocabulary})")

    def _run(self, work: Sequence[tuple[tuple[int, ...], SamplingParams]], cancelled: Event) -> list[RequestOutput]:
        """Steps the engine until every request is finished; outputs are in the order of `work`."""
        from vllm.inputs import tokens_input

        ids = [str(next(self._request_ids)) for _ in work]
        finished: dict[str, Any] = {}
        try:
            for request_id, (prompt, sampling) in zip(ids, work, strict=True):
                self._engine.add_request(request_id, tokens_input(list(prompt)), sampling)
            while self._engine.has_unfinished_requests():
                if cancelled.is_set():
                    raise Cancelled(f"generation of {len(work)} requests was cancelled")
                finished.update((output.request_id, output) for output in self._engine.step() if output.finished)
        finally:
            if len(finished) < len(work):
                self._engine.abort_request(ids)
        return [finished[request_id] for request_id in ids]


def _completion(output: CompletionOutput) -> Completion:
    token_ids = tuple(output.token_ids)
    logprobs: Any = output.logprobs
    # One entry per position: `logprobs=0` asks for the sampled token's alone.
    assert tuple(logprobs.token_ids) == token_ids, "log-probabilities are not those of the sampled tokens"
    reason: Any = output.finish_reason
    assert reason in ("stop", "length"), f"unexpected finish reason {reason!r}"
    return Completion(token_ids=token_ids, logprobs=tuple(logprobs.logprobs), finish_reason=reason)


def _repack_output_matrix(worker: Any) -> None:
    """The CPU kernels keep a packed copy of a tied output matrix that a reload leaves stale: pack it again."""
    lm_head = worker.get_model().lm_head
    lm_head.quant_method.process_weights_after_loading(lm_head)
