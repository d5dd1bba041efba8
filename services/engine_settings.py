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
    """How to start an engine. `stop_token_ids` end a completion, as do the end-of-sequence tokens of the generation
    settings in the directory that the engine is started on. No tokenizer is loaded.

    `device` is "cpu" or "cuda". `kv_cache_gib` and `threads` matter on CPUs only, `gpu_memory_utilization` (a fraction
    of the GPU's memory) on GPUs only. `canary_tolerance` is the largest difference allowed between the canary's
    log-probabilities and the engine's, in nats: 1e-3 suits float32; bfloat16 needs about 5e-2.

    `tensor_parallel` splits every layer over so many GPUs, or processes of `threads` threads and `kv_cache_gib` of
    cache each. `max_adapters` is how many LoRA adapters, none of a rank above `max_adapter_rank`, the engine can hold
    beside its weights; 0 leaves their machinery out. `trust_remote_code` runs code that the model's directory
    brings. Raises ValueError for numbers that mean nothing.
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
    tensor_parallel: int = 1
    max_adapters: int = 0
    max_adapter_rank: int = 16
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.tensor_parallel < 1 or self.max_adapters < 0 or not 1 <= self.max_adapter_rank <= 512:
            raise ValueError(
                f"not a way to start an engine: tensor_parallel={self.tensor_parallel} (at least 1), "
                f"max_adapters={self.max_adapters} (at least 0), max_adapter_rank={self.max_adapter_rank} (1 to 512)"
            )


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

    common: Any = dict(
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
        trust_remote_code=settings.trust_remote_code,
        **_adapter_args(settings),
    )
    if settings.tensor_parallel > 1:
        # Inside an actor vLLM would pick Ray and ask for a placement group; its own processes end with the actor.
        common |= {"tensor_parallel_size": settings.tensor_parallel, "distributed_executor_backend": "mp"}
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


def _adapter_args(settings: EngineSettings) -> dict[str, Any]:
    """One slot more than adapters on CPUs: there, a request without adapter in a batch with some gets the last slot's.

    The engine never holds more than `max_adapters`, so the last slot stays empty.
    """
    if not settings.max_adapters:
        return {}
    from typing import get_args

    from vllm.config.lora import MaxLoRARanks

    slots = settings.max_adapters + (settings.device == "cpu")
    rank = min(rank for rank in get_args(MaxLoRARanks) if rank >= settings.max_adapter_rank)
    return {"enable_lora": True, "max_loras": slots, "max_lora_rank": rank}
