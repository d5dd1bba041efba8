"""The evaluation engine: a vLLM engine in a pool of its own, that must swap the base model in and answer."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from dft_sweeps.cli.checks.finding import Context, Finding, failed, in_short, ok
from dft_sweeps.spec.errors import SpecError

if TYPE_CHECKING:
    from dft_sweeps.evaluation.generator import Canary
    from services.pool import Pool, PoolSettings

CONTEXT = 256
NEW_TOKENS = 96
START_SECONDS = 300


def engine(context: Context) -> Finding:
    """Starts an engine, proves that it holds the model's weights, and lets it answer one question."""
    from dft_sweeps.training.model_files import inspect_model
    from services.engine import CanaryError
    from services.engine_actor import EngineError
    from services.pool import Pool, PoolError, start_pool

    assert context.cluster is not None
    started = time.monotonic()
    try:
        model = inspect_model(context.model_directory)
    except SpecError as error:
        return failed(str(error), "uv pip install --reinstall-package dft-sweeps dft-sweeps   # restores its files")
    device = "cuda" if context.cluster.gpus else "cpu"
    tokenizer = _tokenizer(context)
    settings = _settings(device, tokenizer)
    # Registered before it starts: an interrupted start leaves an engine on the cluster, too.
    context.resources.callback(Pool(settings.name, 1).shutdown)
    try:
        pool = start_pool(settings, str(model.directory))
        ready = time.monotonic() - started
        answer = _ask(pool, str(model.directory), model.weights_digest, tokenizer)
    except (PoolError, EngineError, CanaryError) as error:
        return failed(f"no vLLM engine on {device}: {_reason(str(error))}", _advice(str(error)))
    return ok(f"vLLM on {device} started in {ready:.0f} s; {answer}")


def _tokenizer(context: Context) -> Any:
    from transformers import AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    return AutoTokenizer.from_pretrained(context.model_directory, trust_remote_code=False)


def _settings(device: str, tokenizer: Any) -> PoolSettings:
    """A pool whose name no other pool of the cluster has."""
    from services.engine_settings import EngineSettings
    from services.pool import PoolSettings

    settings = EngineSettings(
        stop_token_ids=(tokenizer.eos_token_id,),
        max_model_len=CONTEXT,
        device=device,
        max_num_seqs=1,
        kv_cache_gib=0.25,
        gpu_memory_utilization=0.5,
    )
    gpus = 1.0 if device == "cuda" else 0.0
    name = f"doctor-{uuid4().hex[:8]}"
    return PoolSettings(settings, num_gpus=gpus, start_timeout_s=START_SECONDS, name=name)


def _ask(pool: Pool, directory: str, weights_digest: str, tokenizer: Any) -> str:
    """What the engine answered and how well it agrees with transformers, in words."""
    from dft_sweeps.data.arithmetic import problems
    from dft_sweeps.data.prompt_templates import Prompts
    from dft_sweeps.evaluation.generator import Request
    from dft_sweeps.evaluation.grading import last_boxed

    [problem] = problems(1, 1, 0, "heldout")
    prompt = Prompts(tokenizer).ids(problem.question)
    with pool.lease() as leased:
        report = leased.swap(directory, weights_digest, _canary(directory, prompt))
        started = time.monotonic()
        [[completion]] = leased.generate([Request(prompt, 1, 0.0, 1.0, NEW_TOKENS, seed=0)])
        seconds = time.monotonic() - started
    text = tokenizer.decode(completion.token_ids, skip_special_tokens=True)
    boxed = last_boxed(text)
    said = f"boxed {boxed}" if boxed else f"wrote {len(completion.token_ids)} tokens"
    return (
        f"it {said} for {problem.question!r} in {seconds:.1f} s, "
        f"within {report.canary_max_difference:.0e} nats of transformers"
    )


def _canary(directory: str, prompt: tuple[int, ...]) -> Canary:
    from dft_sweeps.data.encode import Sample
    from dft_sweeps.training.checkpoint import make_canary
    from dft_sweeps.training.policy import load_policy

    return make_canary(load_policy(Path(directory)), [Sample(prompt, 1)])


def _reason(message: str) -> str:
    """The error at the end of what may be a remote traceback."""
    lines = message.splitlines()
    errors = [index for index, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return in_short("\n".join(lines[errors[-1] :] if errors else lines))


def _advice(message: str) -> str:
    if "memory" in message.lower():
        return "ps aux --sort -rss | head   # what to end, for an engine needs about 2 GiB"
    logs = "/tmp/ray/session_latest/logs/worker-*.err"
    return f"VLLM_LOGGING_LEVEL=INFO dft-sweeps doctor; tail -n 50 {logs}   # vLLM's own words"
