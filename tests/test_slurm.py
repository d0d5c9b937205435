# ruff: noqa: F811  # fixtures are named as arguments
"""Multiruns on a real SLURM cluster of one node: `pytest -m slurm`, as root, see cluster.py."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import cluster
from test_sweep import HERE, logs, marked, marks  # noqa: F401  # a fixture

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="no SLURM here"),
]


def start(marks: Path, toy, environment, *arguments: str) -> subprocess.Popen:
    given = [
        *toy.overrides(),
        f"store.root={marks.parent / 'store'}",
        *("selector=sweeping", "allow=sweeping", "subset.rows=20", "hydra/launcher=slurm"),
        *("hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1"),
        *("hydra.launcher.timeout_min=5", *arguments),
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "xmas", "-m", "--config-dir", marks.parent, *given],
        cwd=marks.parent,
        env=environment | {"PYTHONPATH": f"{HERE.parent}:{HERE}", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen) -> tuple[int, str]:
    _, said = process.communicate(timeout=240)
    return process.returncode, said


def queued(environment) -> list[str]:
    command = ["squeue", "--noheader", "--array", "--format=%i"]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()


def test_a_killed_and_a_cancelled_job_are_named_and_the_same_command_goes_on(
    toy,
    marks,
    tmp_path_factory,
):
    """Without accounting: nobody but the queue tells that a job is gone."""
    (marks / "deadly").touch()
    with cluster(tmp_path_factory.mktemp("cluster")) as environment:
        sweep = start(marks, toy, environment, "seed=0,1,2,3")
        while len(waiting := queued(environment)) < 4:
            time.sleep(0.2)
            assert sweep.poll() is None
        subprocess.run(["scancel", max(waiting)], env=environment, check=True)
        code, said = ended(sweep)
        assert code == 1, said
        summary = said[said.index("xmas: 2 of 4 jobs failed") :]
        assert len(re.findall(r"SLURM job \d+_\d: .*and no result; see", summary)) == 2
        assert marked(marks, "started") == 2
        assert marked(marks, "finished") == 1
        code, said = ended(start(marks, toy, environment, "seed=0,1,2,3"))
        assert code == 0, said + logs(marks)
    assert marked(marks, "finished") == 1
    assert len(list((marks.parent / "store/subset").glob("[!.]*"))) == 4
