"""The dtype a forward pass computes in, whatever the dtype the weights are kept in.

Float32 weights compute in bfloat16 under autocast. Bfloat16 weights compute in float32, as the canary asks for, with
one module's weights widened at a time: nothing is kept twice, and a sharded layer's weights are whole by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

_HALF = (torch.bfloat16, torch.float16)


@contextmanager
def computing_in(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, `model` computes in `dtype`, without gradients where its weights are narrower than that."""
    weight = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    if weight.dtype == dtype:
        yield
    elif dtype in _HALF:
        with torch.autocast(weight.device.type, dtype=dtype):
            yield
    else:
        assert not torch.is_grad_enabled(), "gradients are computed no wider than the weights are kept"
        # A compiled layer does not see hooks added after it was compiled.
        with torch.compiler.set_stance("force_eager"), _widened(model, dtype):
            yield


@contextmanager
def _widened(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, each module has its own parameters in `dtype` while it runs."""
    narrow: dict[nn.Module, dict[str, nn.Parameter | None]] = {}

    def widen(module: nn.Module, _: object) -> None:
        narrow[module] = dict(module._parameters)
        for name, parameter in narrow[module].items():
            if parameter is not None and parameter.is_floating_point():
                module._parameters[name] = parameter.to(dtype)

    def restore(module: nn.Module, *_: object) -> None:
        module._parameters.update(narrow.pop(module))

    with ExitStack() as hooks:
        for module in model.modules():
            if module._parameters:
                hooks.callback(module.register_forward_pre_hook(widen).remove)
                hooks.callback(module.register_forward_hook(restore, always_call=True).remove)
        yield
