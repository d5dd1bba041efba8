"""`rerun --figure --server`: which sweeps the service is asked for."""

from __future__ import annotations

from typing import Any

from dft_sweeps.cli.rerun import Asked
from dft_sweeps.cli.submitted_reruns import submit_reruns


class Api:
    """Knows two sweeps of Figure 3, of which one was submitted again, changed, and waits."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def sweeps(self) -> list[dict[str, Any]]:
        rows = [("figure3_rate", "s-3", None), ("figure3_batch", "s-2", "run-2"), ("figure3_rate", "s-1", "run-1")]
        return [{"name": name, "sweep_id": id_, "run_id": run} for name, id_, run in rows]

    def rerun(self, sweep_id: str, **asked: object) -> dict[str, Any]:
        self.asked.append(sweep_id)
        return {"sweep_id": sweep_id, "submission_id": f"{sweep_id}-a2", "status": "PENDING", "created": True}


def test_the_newest_of_each_name_that_mlflow_knows_are_rerun() -> None:
    api: Any = Api()
    asked = Asked(failed=False, cells=(), fresh=True, seeds=None, overrides=())
    assert submit_reruns(api, asked, sweep=None, figure=3, follow=False, as_json=True) == 0
    assert api.asked == ["s-1", "s-2"]
