"""How far an engine is from a canary: what is asked of it, and the differences in nats.

Prompt log-probabilities bypass the prefix cache, so a token sampled after a prompt that may be cached is asked for as
well, with and without the cache: only that shows a stale block.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dft_sweeps.evaluation.generator import Canary

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams

    Question = tuple[tuple[int, ...], SamplingParams]


def questions(canary: Canary, length: int) -> list[Question]:
    """The canary's prompts, and the probe of `length` tokens with and without the prefix cache: for `differences`."""
    prompts = [(prompt, _sampling(prompt_logprobs=0)) for prompt in canary.prompts]
    return [*prompts, probe(canary, length), probe(canary, length, skip_reading_prefix_cache=True)]


def differences(canary: Canary, answers: list[RequestOutput]) -> tuple[float, float]:
    """Largest absolute difference between the canary's log-probabilities and the engine's, and how much the probe's
    changes when the prefix cache is not read. NaN, which is within no tolerance, where any of them is not finite."""
    *rows, cached, uncached = answers
    found = [
        abs(expected - actual)
        for prompt, row, answer in zip(canary.prompts, canary.logprobs, rows, strict=True)
        for expected, actual in zip(row, _prompt_logprobs(prompt, answer), strict=True)
    ]
    largest = max(found) if all(map(math.isfinite, found)) else math.nan  # max() passes over a NaN that is not first
    return largest, abs(_probed(canary, cached) - _probed(canary, uncached))


def probe(canary: Canary, length: int, skip_reading_prefix_cache: bool = False) -> Question:
    """Asks for one fixed token's log-probability after a prompt of `length` tokens made of the canary's.

    A prompt longer than a block of the prefix cache fills one, or reuses it.
    """
    tokens = [token for prompt in canary.prompts for token in prompt]
    prompt = (tokens * (length // len(tokens) + 1))[:length]
    cache = {"skip_reading_prefix_cache": skip_reading_prefix_cache}
    return tuple(prompt), _sampling(logprobs=1, logprob_token_ids=[tokens[0]], **cache)


def _probed(canary: Canary, answer: RequestOutput) -> float:
    logprobs: Any = answer.outputs[0].logprobs
    return float(logprobs[0][canary.prompts[0][0]].logprob)


def _prompt_logprobs(prompt: tuple[int, ...], answer: RequestOutput) -> list[float]:
    row: Any = answer.prompt_logprobs
    return [entry[token].logprob for token, entry in zip(prompt[1:], row[1:], strict=True)]


def _sampling(**options: Any) -> SamplingParams:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(
        max_tokens=1, temperature=0.0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY, **options
    )
