"""What evaluation engines are started with, for every command that starts some."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dft_sweeps.data.prompt_templates import Prompts
    from dft_sweeps.spec.models import PoolSpec
    from services.pool import PoolSettings

_TOLERANCES = {"float32": 1e-3, "bfloat16": 0.3}
"""By dtype, the largest difference in nats between an engine that holds a checkpoint's weights and transformers in
float32. In float32 a checkpoint is told from the one before it. Rounding to bfloat16 alone makes 0.14 to 0.25 on the
embedded model, so there half a checkpoint (4.7) is found, but not a neighbouring one."""


def pool_settings(
    pool: PoolSpec, stop_token_ids: tuple[int, ...], name: str, adapter_rank: int | None = None, trusted: bool = False
) -> PoolSettings:
    """The pool that a spec asks for; several GPUs of an engine share its layers.

    Args:
        name: no other pool of the cluster has it.
        adapter_rank: the largest of the LoRA checkpoints to be served as adapters; None where there are none.
        trusted: whether the model's own code is run.
    """
    from services.engine_settings import EngineSettings
    from services.pool import PoolSettings

    parts = pool.parts
    engine = EngineSettings(
        stop_token_ids=stop_token_ids,
        max_model_len=pool.max_model_len,
        device="cuda" if pool.gpus_per_engine else "cpu",
        dtype=pool.dtype,
        max_num_seqs=pool.max_num_seqs,
        kv_cache_gib=pool.kv_cache_gib,
        threads=max(1, pool.cpus_per_engine // parts),
        gpu_memory_utilization=pool.gpu_memory_utilization,
        canary_tolerance=_TOLERANCES[pool.dtype],
        tensor_parallel=parts,
        max_adapters=0 if adapter_rank is None else pool.adapters,
        max_adapter_rank=max(adapter_rank or 0, 8),
        trust_remote_code=trusted,
    )
    return PoolSettings(
        engine=engine,
        replicas=pool.replicas,
        max_replicas=pool.max_replicas,
        num_cpus=pool.cpus_per_engine / parts,
        num_gpus=pool.gpus_per_engine / parts,
        name=name,
    )


def stop_tokens(prompts: Prompts, directory: Path, trusted: bool = False) -> tuple[int, ...]:
    """What ends a completion: the template's tokens and those of the model's directory, whose code may be `trusted`."""
    from dft_sweeps.training.model_files import end_tokens

    return tuple(sorted({*prompts.stop_token_ids, *end_tokens(directory, trusted)}))
