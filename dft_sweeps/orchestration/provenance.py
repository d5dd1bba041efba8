"""What can change a trial's bits but not its mathematics, as tags of its MLflow run.

Two runs of a trial are alike bit for bit only where all of these are equal.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dft_sweeps import __version__
from dft_sweeps.tracking import names

if TYPE_CHECKING:
    from dft_sweeps.spec.models import ExecutionSpec, ModelSpec
    from dft_sweeps.training.policy import Policy


def provenance(policy: Policy, model: ModelSpec, execution: ExecutionSpec, workers: int) -> dict[str, str]:
    """Of this process, which trains `policy`."""
    import peft
    import torch
    import transformers

    device = policy.model.device
    gpu = device.type == "cuda"
    return {
        "dft.workers": str(workers),
        "dft.threads": str(torch.get_num_threads()),
        "dft.device": torch.cuda.get_device_name(device)
        if gpu
        else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "dft.dtype": f"{model.dtype}, parameters {model.parameter_dtype}",
        "dft.attention": str(policy.model.config._attn_implementation),
        "dft.micro_batch_tokens": str(execution.micro_batch_tokens),
        "dft.pack_length": str(execution.pack_length),
        "dft.compile": str(execution.compile).lower(),
        "dft.gradient_checkpointing": str(execution.gradient_checkpointing).lower(),
        "dft.versions": f"dft-sweeps {__version__}, python {platform.python_version()}, torch {torch.__version__}"
        + (f" (CUDA {torch.version.cuda})" if gpu else "")
        + f", transformers {transformers.__version__}, peft {peft.__version__}",
    }


def continued(
    earlier: Mapping[str, str], present: Mapping[str, str], step: int, promoted: bool = False
) -> dict[str, str]:
    """The tags of a trial that goes on from `step` of an attempt with the tags `earlier`: the present ones, and where
    the two are not the same, or were not before, what differs.

    Args:
        promoted: it goes on from where it was parked, so that nothing was interrupted now.
    """
    changes = [
        f"{name.removeprefix('dft.')} {earlier.get(name, 'unknown')} -> {value}"
        for name, value in present.items()
        if earlier.get(name) != value
    ]
    before = earlier.get(names.MIXED_PROVENANCE_TAG)
    mixed = [*([before] if before else []), *([f"from step {step}: {', '.join(changes)}"] if changes else [])]
    resumed = earlier.get(names.RESUMED_AT_TAG) if promoted else str(step)
    return {
        **present,
        **({names.RESUMED_AT_TAG: resumed} if resumed else {}),
        **({names.MIXED_PROVENANCE_TAG: "; ".join(mixed)} if mixed else {}),
    }
