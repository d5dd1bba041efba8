"""One vLLM engine inside the calling process: samples from the weights it holds and swaps them in place.

vLLM's own engine process is not used: the process that owns this object is already a separate actor, and one process
less saves 10-16 s of imports at start and leaves nothing behind when the actor dies.

Failure semantics: after `reload` or `load_adapter` raised anything, or `generate` anything but ValueError and
`Cancelled`, the engine's state is unknown and its owner must throw the process away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from threading import Event, Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from dft_sweeps.evaluation.generator import Canary, Completion, Request
from services.adapter_directory import require_adapter_fits
from services.engine_canary import differences, probe, questions
from services.engine_settings import EngineSettings, engine_args, set_environment
from services.weights_directory import read_layout, require_same_layout

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.outputs import CompletionOutput
    from vllm.sampling_params import SamplingParams


class _Asked(NamedTuple):
    """A request as vLLM takes it, and where its answer belongs: the name of its adapter and its number under that."""

    name: str | None
    index: int
    prompt: tuple[int, ...]
    sampling: SamplingParams
    adapter: LoRARequest | None


_Answered = dict[tuple[str | None, int], Any]
"""vLLM's outputs by name and number."""


class CanaryError(RuntimeError):
    """The engine's log-probabilities are not those of the checkpoint it was told to load."""


class Cancelled(RuntimeError):
    """Generation was stopped because its caller went away."""


class VllmEngine:
    """A vLLM engine that holds the weights of one directory, and adapters on them. Not thread-safe."""

    def __init__(self, settings: EngineSettings, model_directory: str) -> None:
        """Starts vLLM on `model_directory` (10 s on two cores, most of it imports). Raises ValueError on a bad one."""
        set_environment(settings)
        self._settings = settings
        self._layout = read_layout(Path(model_directory), settings.trust_remote_code)
        from vllm.v1.engine.llm_engine import LLMEngine

        self._engine = LLMEngine.from_engine_args(engine_args(settings, model_directory))
        self._request_ids, self._adapter_ids = count(), count(1)
        self._adapters: dict[str, LoRARequest] = {}  # by name, the least recently used first
        self._step_began: float | None = None
        self._not_begun: deque[_Asked] = deque()
        self._feeding = Lock()
        # vLLM may schedule a step ahead, so more than one batch lies ready in it.
        self._most_fed = settings.max_num_seqs + settings.max_num_seqs // 2
        block_size = self._engine.vllm_config.cache_config.block_size
        self._probe_length = min(block_size + 1, settings.max_model_len - 1)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters held, the least recently used first."""
        return tuple(self._adapters)

    @property
    def step_seconds(self) -> float:
        """How long the decoding step under way has taken; 0 when there is none. For threads that watch this one."""
        began = self._step_began
        return 0.0 if began is None else monotonic() - began

    def generate(self, requests: Sequence[Request], cancelled: Event) -> list[list[Completion]]:
        """Samples all requests from the weights themselves; see `generate_of`."""
        return self.generate_of({None: requests}, cancelled)[None]

    def generate_of(
        self, groups: Mapping[str | None, Sequence[Request]], cancelled: Event
    ) -> dict[str | None, list[list[Completion]]]:
        """Samples all requests together, each group under the adapter it is keyed by (None: without one).

        The i-th list of a group holds the completions of its i-th request in seed order; none, if that was given back.

        Raises ValueError naming the request whose prompt leaves no room in the context, `Cancelled` once the event
        is set. A completion that meets the end of the context ends there with "length".
        """
        asked: deque[_Asked] = deque()
        for name, requests in groups.items():
            adapter = self.use(name)
            for index, request in enumerate(requests):
                self._require_room(request.prompt, f"request {index}" + (f" of {name}" if name else ""))
                asked.append(_Asked(name, index, request.prompt, self._sampling(request), adapter))
        self._not_begun = asked
        found = self._run(asked, cancelled)
        return {
            name: [
                [_completion(output) for output in found[name, index].outputs] if (name, index) in found else []
                for index in range(len(requests))
            ]
            for name, requests in groups.items()
        }

    @property
    def not_begun(self) -> int:
        """Requests of the generation under way that vLLM has not been given yet. For other threads."""
        return len(self._not_begun)

    def give_back(self, count: int) -> list[tuple[str | None, int]]:
        """Takes the last requests not begun, so many at most, out of the generation under way: name and number of each.
        For other threads."""
        with self._feeding:
            given = [self._not_begun.pop() for _ in range(min(count, len(self._not_begun)))]
        return [(asked.name, asked.index) for asked in given]

    def require_loadable(self, directory: str, canary: Canary) -> None:
        """Raises ValueError when `reload` of these cannot work: what can be known without touching the engine."""
        found = read_layout(Path(directory), self._settings.trust_remote_code)
        require_same_layout(self._layout, found, Path(directory))
        self._require_canary_fits(canary)

    def reload(self, directory: str, canary: Canary) -> float:
        """Replaces the weights by those of `directory` and drops all adapters; returns the canary's largest difference
        in nats.

        Raises `CanaryError` when the weights then held are not those the canary was made for, and whatever vLLM
        raises: after any error the engine holds nothing usable.
        """
        # Leaves a block of the old weights' attention states in the prefix cache.
        self._run(deque([_Asked(None, 0, *probe(canary, self._probe_length), None)]), Event())
        self._adapters.clear()  # as vLLM does when it reloads
        self._engine.collective_rpc("reload_weights", kwargs={"weights_path": directory})
        if self._layout.tied and self._settings.device == "cpu":
            self._engine.collective_rpc(_repack_output_matrix)
        self._reset_prefix_cache()
        return self._require_canary(canary, directory, None)

    def require_loadable_adapter(self, directory: str, canary: Canary) -> None:
        """Raises ValueError when `load_adapter` of these cannot work."""
        if not self._settings.max_adapters:
            raise ValueError("this engine was started without room for adapters (max_adapters=0)")
        require_adapter_fits(self._layout, Path(directory), self._settings.max_adapter_rank)
        self._require_canary_fits(canary)

    def load_adapter(self, directory: str, name: str, canary: Canary) -> float:
        """Puts the adapter in `directory` beside the others under a new name; returns the canary's largest difference
        in nats.

        Where there is no room, the least recently used adapter goes. Raises `CanaryError` when the weights under the
        adapter are not those the canary was made for.
        """
        from vllm.lora.request import LoRARequest

        assert name not in self._adapters, f"adapter {name} is already held"
        if len(self._adapters) == self._settings.max_adapters:
            self._engine.remove_lora(self._adapters.pop(self.adapters[0]).lora_int_id)
        identity = next(self._adapter_ids)
        # The prefix cache knows an adapter by `lora_name`: a number never used before shares no block with another.
        adapter = LoRARequest(lora_name=f"{identity} {name}", lora_int_id=identity, lora_path=directory)
        self._engine.add_lora(adapter)
        self._adapters[name] = adapter
        return self._require_canary(canary, directory, adapter)

    def use(self, name: str | None) -> LoRARequest | None:
        """The adapter of this name, from now on the most recently used one."""
        if name is None:
            return None
        self._adapters[name] = self._adapters.pop(name)
        return self._adapters[name]

    def _reset_prefix_cache(self) -> None:
        """Forgets the old weights' attention states. vLLM answers False when some block is still in use."""
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache")

    def _require_canary(self, canary: Canary, directory: str, adapter: LoRARequest | None) -> float:
        """Compares prompt log-probabilities with the canary's, and the cached path with the uncached one."""
        asked = [
            _Asked(None, index, *question, adapter)
            for index, question in enumerate(questions(canary, self._probe_length))
        ]
        found = self._run(deque(asked), Event())
        difference, stale = differences(canary, [found[None, index] for index in range(len(asked))])
        tolerance = self._settings.canary_tolerance
        if not difference <= tolerance or not stale <= tolerance:
            raise CanaryError(
                f"after loading {directory} the canary differs by {difference:.3g} nats and the prefix "
                f"cache by {stale:.3g}; {tolerance:g} is allowed: these are not that checkpoint's weights"
            )
        return max(difference, stale)

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

    def _require_canary_fits(self, canary: Canary) -> None:
        for index, prompt in enumerate(canary.prompts):
            self._require_room(prompt, f"canary prompt {index}")
        if not canary.prompts:
            raise ValueError("the canary has no prompts, so it proves nothing")

    def _require_room(self, prompt: tuple[int, ...], what: str) -> None:
        if not 0 < len(prompt) < self._settings.max_model_len:
            raise ValueError(
                f"{what}: a prompt of {len(prompt)} tokens, the engine takes 1 to "
                f"{self._settings.max_model_len - 1} (max_model_len - 1)"
            )
        vocabulary = self._layout.config["vocab_size"]
        if not 0 <= min(prompt) <= max(prompt) < vocabulary:
            raise ValueError(f"{what}: token ids must lie in [0, {vocabulary})")

    def _run(self, asked: deque[_Asked], cancelled: Event) -> _Answered:
        """Gives vLLM what is asked, first things first, as it has room, and steps it until all of that is finished."""
        under_way: dict[str, _Asked] = {}
        found: _Answered = {}
        try:
            while True:
                self._feed(asked, under_way)
                if not under_way:
                    return found
                if cancelled.is_set():
                    raise Cancelled(f"generation of {len(under_way) + len(asked)} requests was cancelled")
                self._step_began = monotonic()
                for output in self._engine.step():
                    if output.finished:
                        done = under_way.pop(output.request_id)
                        found[done.name, done.index] = output
        finally:
            self._step_began = None
            asked.clear()
            if under_way:
                self._engine.abort_request(list(under_way))

    def _feed(self, asked: deque[_Asked], under_way: dict[str, _Asked]) -> None:
        """Fills vLLM's queue, so that its batch stays full, and no further: what waits here can be given back."""
        from vllm.inputs import tokens_input

        with self._feeding:
            while asked and self._engine.get_num_unfinished_requests() < self._most_fed:
                request_id, each = str(next(self._request_ids)), asked.popleft()
                under_way[request_id] = each
                prompt = tokens_input(list(each.prompt))
                self._engine.add_request(request_id, prompt, each.sampling, lora_request=each.adapter)


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
