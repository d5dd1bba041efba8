"""Where engines come to lie on several nodes."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

from tests.services.random_policies import ENGINE, Checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_engines_share_a_node_and_leave_another_whole(checkpoints: list[Checkpoint]) -> None:
    """Two nodes of two CPUs, two engines of one."""
    script = textwrap.dedent(f"""
        import json
        from ray.cluster_utils import Cluster
        nodes = Cluster(initialize_head=True, head_node_args={{"num_cpus": 2, "include_dashboard": False}})
        nodes.add_node(num_cpus=2)
        nodes.wait_for_nodes()
        try:
            import ray
            from services.engine_settings import EngineSettings
            from services.pool import PoolSettings, engine_nodes, start_pool
            ray.init(nodes.address, log_to_driver=False)
            pool = start_pool(PoolSettings({ENGINE!r}, replicas=2, name="two"), {checkpoints[0].directory!r})
            print("====", json.dumps(engine_nodes()))
            pool.shutdown()
            ray.shutdown()
        finally:
            nodes.shutdown()
    """)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=500)
    engines = json.loads(ended.stdout.partition("====")[2] or "[]")
    assert [name for name, _ in engines] == ["two", "two"], ended.stderr[-2000:]
    assert len({node for _, node in engines}) == 1
