"""How an engine is started: the settings a user chooses, and what they mean to vLLM."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.engine.arg_utils import EngineArgs

_CPU_BLOCK_SIZE = 32
"""Tokens per prefix-cache block: the smallest the CPU kernels take. vLLM's own 128 shares nothing of a short prompt."""


@dataclass(frozen=True)
class EngineSettings:
    """How to start an engine. `stop_token_ids` end a completion: no tokenizer is loaded, so nothing else says which.

    `device` is "cpu" or "cuda". `kv_cache_gib` and `threads` matter on CPUs only, `gpu_memory_utilization` (a fraction
    of the GPU's memory) on GPUs only. `canary_tolerance` is the largest difference allowed between the canary's
    log-probabilities and the engine's, in nats: 1e-3 suits float32; bfloat16 needs about 5e-2.
    """

    stop_token_ids: tuple[int, ...]
    max_model_len: int
    device: str = "cpu"
    dtype: str = "float32"
    max_num_seqs: int = 64
    kv_cache_gib: float = 1.0
    threads: int = 1
    gpu_memory_utilization: float = 0.9
    canary_tolerance: float = 1e-3


def set_environment(settings: EngineSettings) -> None:
    """Must run before torch or vllm is imported: OpenMP and vLLM read these once."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if settings.device == "cpu":
        # torch.compile would build two sampler functions with a C++ compiler for 2-6 s, and gain nothing here.
        os.environ |= {
            "OMP_NUM_THREADS": str(settings.threads),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "TORCH_COMPILE_DISABLE": "1",
        }


def engine_args(settings: EngineSettings, model_directory: str) -> EngineArgs:
    """vLLM's arguments for these settings, and why where they are not its defaults."""
    from vllm.engine.arg_utils import EngineArgs

    common: Any = dict(  # noqa: C408
        model=model_directory,
        skip_tokenizer_init=True,
        generation_config="vllm",
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        enable_prefix_caching=True,
        logprobs_mode="raw_logprobs",
        disable_log_stats=True,
        use_tqdm_on_load=False,
    )
    if settings.device == "cuda":
        return EngineArgs(**common, gpu_memory_utilization=settings.gpu_memory_utilization)
    # A seeded request whose prefill is split kills vLLM's CPU runner, so a whole prompt must fit in one step.
    return EngineArgs(
        **common,
        enforce_eager=True,
        enable_chunked_prefill=False,
        block_size=_CPU_BLOCK_SIZE,
        max_num_batched_tokens=max(settings.max_model_len, 2048),
        kv_cache_memory_bytes=int(settings.kv_cache_gib * 2**30),
    )
