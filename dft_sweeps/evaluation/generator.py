"""The contract between evaluation and whatever turns prompts into completions: token ids in, token ids out.

Everything crosses as token ids, because text that is tokenised again need not give the same ids back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Request:
    """One prompt and how to sample its `n` completions; temperature 0 is greedy, and then `n` must be 1.

    Completion i draws from the stream of `seed + i`, so the seeds of two requests must lie at least `n` apart.
    Raises ValueError for values that mean nothing.
    """

    prompt: tuple[int, ...]
    n: int
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int

    def __post_init__(self) -> None:
        if not (
            self.n >= 1
            and self.temperature >= 0
            and 0 < self.top_p <= 1
            and self.max_new_tokens >= 1
            and 0 <= self.seed < 2**63 - self.n
        ):
            raise ValueError(
                f"not a way to sample: n={self.n}, temperature={self.temperature}, top_p={self.top_p}, "
                f"max_new_tokens={self.max_new_tokens}, seed={self.seed}"
            )
        if self.temperature == 0 and self.n > 1:
            raise ValueError(f"greedy sampling gives one completion, not {self.n}")


@dataclass(frozen=True)
class Completion:
    """One sampled continuation: its token ids and each one's log-probability under the policy itself.

    The log-probabilities are the policy's own (temperature 1, the whole vocabulary), whatever the sampling was.
    `finish_reason` is "stop" when a stop token ended it (the stop token is then the last of `token_ids`) and
    "length" when `max_new_tokens` or the model's context did.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


@dataclass(frozen=True)
class Canary:
    """Fixed prompts and what these weights say about them, to prove that an engine holds the weights it claims.

    `logprobs[k][i - 1]` is log p(prompts[k][i] | prompts[k][:i]) by transformers in float32, so each row is one
    shorter than its prompt.
    """

    prompts: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.logprobs):
            raise ValueError(f"canary has {len(self.prompts)} prompts but {len(self.logprobs)} rows of logprobs")
        for index, (prompt, row) in enumerate(zip(self.prompts, self.logprobs, strict=True)):
            if len(prompt) < 2 or len(row) != len(prompt) - 1:
                raise ValueError(
                    f"canary prompt {index}: {len(prompt)} tokens need {len(prompt) - 1} logprobs, "
                    f"got {len(row)} (and a prompt needs at least 2 tokens)"
                )
            for logprob in row:
                if not math.isfinite(logprob):
                    raise ValueError(f"canary prompt {index}: a log-probability of {logprob} proves nothing")

    def save(self, path: Path) -> None:
        """Writes the canary as JSON; floats keep every digit."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Canary:
        """Reads what `save` wrote. Raises ValueError on a file that is no canary, OSError when it is not there."""
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or set(content) != {"prompts", "logprobs"}:
            raise ValueError(f"{path}: not a canary file (expected the keys `prompts` and `logprobs`)")
        return cls(
            prompts=tuple(tuple(int(token) for token in prompt) for prompt in content["prompts"]),
            logprobs=tuple(tuple(float(value) for value in row) for row in content["logprobs"]),
        )


class Generator(Protocol):
    """Anything that samples completions from one known set of weights."""

    @property
    def weights_digest(self) -> str:
        """The digest of the weights that `generate` samples from."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """Samples every request; the answer's i-th list holds the `n` completions of `requests[i]`, in seed order."""
        ...
