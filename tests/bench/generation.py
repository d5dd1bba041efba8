"""What the generation rows have in common: a workload in files, and rounds whose tokens must be the same for all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.policies import checkpoints, gsm8k_requests, prompts_of, write_requests
from tests.bench.workload import GSM8K, Shape

SAMPLES = 4
MAX_NEW_TOKENS = 128
QUICK_TOKENS = 8
ENGINE: dict[str, Any] = {"stop_token_ids": [], "max_model_len": 1024, "max_num_seqs": 64, "kv_cache_gib": 1.0}
"""No stop tokens: every completion is as long as it may be."""

Found = dict[str, Any]
"""Seconds, tokens and the tokens' hash of one round."""


def missing() -> str | None:
    """Why these rows cannot be measured here."""
    if find_spec("vllm") is None:
        return "vLLM is not installed (pip install 'dft-sweeps[cpu]')"
    return None if GSM8K.is_file() else "GSM8K's training file is not in ../shared/data/train"


class Workload:
    """A checkpoint and requests to it, in files; as many requests as keep vLLM busy for `seconds`."""

    def __init__(self, shape: Shape, directory: Path, threads: int, max_new_tokens: int = MAX_NEW_TOKENS) -> None:
        [self.checkpoint] = checkpoints(shape, directory, endless=True)
        self._prompts, self._directory = prompts_of(self.checkpoint.directory), directory
        self.requests, self.warm_up = str(directory / "requests.json"), str(directory / "warm_up.json")
        self.engine = ENGINE | {"threads": threads}
        self.questions, self.max_new_tokens = 0, max_new_tokens
        write_requests(gsm8k_requests(self._prompts, 8, SAMPLES, 8, seed=5000), Path(self.warm_up))

    def ask(self, questions: int) -> None:
        self.questions = questions
        write_requests(gsm8k_requests(self._prompts, questions, SAMPLES, self.max_new_tokens), Path(self.requests))

    def fit(self, found: Found, seconds: float) -> None:
        """Asks as many questions as take so long at the rate found; at least as many as fill the engine."""
        rate = found["tokens"] / found["seconds"]
        self.ask(max(16, math.ceil(seconds * rate / SAMPLES / self.max_new_tokens)))

    def require_length(self, found: Found) -> Found:
        """What a side found, if none of its completions ended early."""
        expected = self.questions * SAMPLES * self.max_new_tokens
        assert found["tokens"] == expected, f"{found['tokens']} tokens instead of {expected}"
        return found

    @property
    def sentence(self) -> str:
        return (
            f"{self.questions} GSM8K questions, {SAMPLES} samples each of {self.max_new_tokens} tokens, temperature 1, "
            "seeded; float32, at most 64 sequences at once, 1 GiB of cache in blocks of 32, eager, chunked prefill off"
        )


def disagreement(found: Mapping[str, list[Found]], same_tokens: bool = True) -> str | None:
    """How the rounds' tokens differ: in number, or in their ids too. None if they do not."""
    wanted = ("tokens", "hash") if same_tokens else ("tokens",)
    seen = {name: sorted({str([each[key] for key in wanted]) for each in rounds}) for name, rounds in found.items()}
    return None if len({each for rounds in seen.values() for each in rounds}) == 1 else str(seen)


def rotated(names: list[str], turn: int) -> list[str]:
    """The order of a round: it shifts by one every time."""
    start = turn % len(names)
    return names[start:] + names[:start]


def rate(rounds: list[Found]) -> float:
    """Tokens per second, by the median round."""
    return rounds[0]["tokens"] / median(each["seconds"] for each in rounds)


def rates(found: Mapping[str, list[Found]]) -> str:
    """The last round, for the eye."""
    return ", ".join(f"{name} {each[-1]['tokens'] / each[-1]['seconds']:.0f} tokens/s" for name, each in found.items())
