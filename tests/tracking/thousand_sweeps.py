"""A thousand sweeps in PostgreSQL, written into MLflow's tables in bulk: what its own calls would take an hour for."""

from __future__ import annotations

import json
from pathlib import Path

from dft_sweeps.tracking import names
from dft_sweeps.tracking.writer import Tracker

SWEEPS, TRIALS, PARAMS, METRICS = 1000, 10, 60, 40
NAMES = 250
"""Of experiments, each with several sweeps."""

_RUNS = """
INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time,
                  source_version, lifecycle_stage, artifact_uri, experiment_id)
SELECT md5('s' || s), 'sweep', 'UNKNOWN', '', '', 'u', 'FINISHED', 1000000 + s * 1000, NULL, '', 'active',
       %(artifacts)s || '/' || s, e.experiment_id
FROM generate_series(0, %(sweeps)s - 1) s
JOIN experiments e ON e.name = 'sweep-' || lpad((s %% %(names)s)::text, 3, '0')
UNION ALL
SELECT md5('s' || s || 't' || t), 'seed=' || t, 'UNKNOWN', '', '', 'u',
       CASE WHEN t = %(trials)s - 2 THEN 'KILLED' ELSE 'FINISHED' END, 1000100 + s * 1000, 1000200 + s * 1000, '',
       'active', %(artifacts)s || '/' || s || '-' || t, e.experiment_id
FROM generate_series(0, %(sweeps)s - 1) s CROSS JOIN generate_series(0, %(trials)s - 2) t
JOIN experiments e ON e.name = 'sweep-' || lpad((s %% %(names)s)::text, 3, '0');
"""
_SWEEP_TAGS = """
INSERT INTO tags (key, value, run_uuid)
SELECT k, v, md5('s' || s) FROM generate_series(0, %(sweeps)s - 1) s,
  LATERAL (VALUES ('dft.sweep_id', 's-' || lpad(s::text, 6, '0')), ('dft.measures', 'm' || s %% 7),
                  ('mlflow.runName', 'sweep'), ('dft.cpu_hours', '1.5'), ('dft.gpu_hours', '0')) own(k, v)
UNION ALL
SELECT 'dft.trial.t-' || s || '-' || t,
       CASE WHEN t < %(trials)s - 2 THEN md5('s' || s || 't' || t) ELSE 'unfinished' END, md5('s' || s)
FROM generate_series(0, %(sweeps)s - 1) s CROSS JOIN generate_series(0, %(trials)s - 1) t;
"""
_TRIAL_TAGS = """
INSERT INTO tags (key, value, run_uuid)
SELECT k, v, md5('s' || s || 't' || t)
FROM generate_series(0, %(sweeps)s - 1) s CROSS JOIN generate_series(0, %(trials)s - 2) t,
  LATERAL (VALUES ('dft.sweep_id', 's-' || lpad(s::text, 6, '0')), ('dft.measures', 'm' || s %% 7),
                  ('mlflow.parentRunId', md5('s' || s)), ('dft.training_id', 't-' || s || '-' || t),
                  ('mlflow.runName', 'seed=' || t), ('dft.attempt', md5('a' || s || '-' || t)),
                  ('dft.device', 'cpu'), ('dft.axis.train.seed', t::text)) own(k, v);
"""
_PARAMS = """
INSERT INTO params (key, value, run_uuid)
SELECT 'train.parameter_' || p, 'value ' || p, run_uuid FROM runs, generate_series(1, %(params)s) p
WHERE name LIKE 'seed=%%';
"""
_METRICS = """
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)
SELECT CASE m WHEN 1 THEN 'train/nll' ELSE 'eval/benchmark_' || m || '/accuracy' END, 0.5, 1000, 100, false, run_uuid
FROM runs, generate_series(1, %(metrics)s) m WHERE name LIKE 'seed=%%';
"""


def write_sweeps(uri: str, artifacts: Path) -> None:
    """`SWEEPS` sweeps; the last trial but one of each was killed and its last never started, but that the newest
    100 sweeps have all their trials finished, in tags alone."""
    import psycopg

    tracker = Tracker(uri, str(artifacts / "experiments"))
    for number in range(NAMES):
        tracker._experiment(f"sweep-{number:03d}")
    listed = [{"training_id": f"t-500-{t}", "name": f"seed={t}", "axes": {"train.seed": t}} for t in range(TRIALS)]
    folder = artifacts / "500"
    folder.mkdir(parents=True)
    (folder / names.TRIALS_ARTIFACT).write_text(json.dumps(listed))
    given = {"sweeps": SWEEPS, "trials": TRIALS, "names": NAMES, "params": PARAMS, "metrics": METRICS}
    given |= {"artifacts": str(artifacts)}
    with psycopg.connect(uri, autocommit=True) as connection:
        for statement in (_RUNS, _SWEEP_TAGS, _TRIAL_TAGS, _PARAMS, _METRICS):
            connection.execute(statement, given)
        connection.execute(
            "UPDATE tags SET value = 'elsewhere' WHERE value = 'unfinished' AND run_uuid IN "
            "(SELECT run_uuid FROM runs ORDER BY start_time DESC, name LIMIT 100) AND key LIKE 'dft.trial.%%'", {}
        )  # fmt: skip
        connection.execute("ANALYZE")
