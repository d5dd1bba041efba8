"""What warm engines leave of a cluster to sweeps that cannot use them."""

from __future__ import annotations

from pathlib import Path

import dft_sweeps
from dft_sweeps.cli.warm_pool import beside, warm_name
from dft_sweeps.spec.placement import ClusterFacts, Resources
from services.engine_settings import EngineSettings
from services.pool import PoolSettings

MODEL = Path(dft_sweeps.__file__).parent / "data" / "base_model"


def test_warm_engines_leave_the_rest() -> None:
    engine = EngineSettings(stop_token_ids=(1,), max_model_len=64)
    name = warm_name(PoolSettings(engine, replicas=1, max_replicas=3, num_cpus=2), MODEL)
    assert name.startswith("warm-3x2c0g-")
    nodes = (Resources(4, 0), Resources(8, 1))
    found = beside(ClusterFacts(12, 1, nodes, devices=("x",)), [name])
    assert found == ClusterFacts(6, 1, (Resources(4, 0), Resources(2, 1)), devices=("x",))
    assert beside(ClusterFacts(12, 1, nodes), []).nodes == nodes
