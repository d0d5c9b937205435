"""Every script in `experiments/` starts: at a tiny size with `--tiny`, or at least its `--help`.

A record is worth little if the script that made it no longer runs. Scripts run in forks of a
process that has imported torch and xmas, so that each costs its own work alone.
"""

import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from server import Server

ROOT = Path(__file__).parent.parent
SCRIPTS = {
    path.relative_to(ROOT / "experiments").as_posix(): path
    for path in sorted((ROOT / "experiments").rglob("*.py"))
    if "__main__" in path.read_text()  # or it is a part of a script
}
HELP_ALONE = {  # why they do not run here; `--help` has imported all that they need
    "demo/seeds.py": "trains the demo's whole chain for every seed: minutes",
    "demo_selectors/transfer.py": "fits CLIP towers and targets of the demo's pool: minutes",
    "demo_sweep/offline_runs.py": "reads the store of a sweep; `test_logger` runs it on one",
    "demo_sweep/slurm.py": "starts a cluster, as `pytest -m slurm` does",
    "gpu/first_hour.py": "a minute of a core; `tests/emulated/test_gpu_scripts.py` runs it whole",
    "gpu/several_cards.py": "starts ranks; `tests/emulated/test_cards.py` runs it whole",
    "influence/one_source.py": "fits and ranks the demo's pool for every source: minutes",
    "influence/packed.py": "gradients of the demo's whole pool, twice: minutes",
    "reliability/disk_images.py": "mounts file systems; runs under `slow`, as root",
    "reliability/full_disk.py": "mounts file systems; runs under `slow`, as root",
    "study/study.py": "fits targets for every selector, budget and seed: hours",
    "threads/spin.py": "starts two new processes with torch; runs under `slow`",
}
TURNS = Path(__file__).parent / "scripts_in_turn.py"
OF_A_STORE = {"demo/images.py"}  # takes the path of a store in which the demo's controls have run
MOUNTS = os.geteuid() == 0 and shutil.which("mkfs.ext4") is not None


@pytest.fixture(scope="module")
def ran(server, tmp_path_factory):
    """A function that gives what came of a script: those of a folder run in one fork, in turn."""

    @functools.cache
    def folder(name: str) -> dict[str, dict[str, Any]]:
        scripts = [
            script for script in SCRIPTS if script.startswith(name) and script not in OF_A_STORE
        ]
        commands = [
            (str(SCRIPTS[script]), "--help" if script in HELP_ALONE else "--tiny")
            for script in scripts
        ]
        ended = server.script(TURNS, json.dumps(commands), cwd=tmp_path_factory.mktemp("scripts"))
        assert ended.returncode == 0, ended.stderr
        return dict(zip(scripts, json.loads(ended.stdout.splitlines()[-1]), strict=True))

    return lambda script: folder(script.partition("/")[0] + "/")[script]


def printed(script: str, result: dict[str, Any]) -> str:
    """What a script printed. Fails where it ended with another status than 0."""
    assert result["status"] == 0, f"experiments/{script}\n{result['errors']}"
    return result["output"]


def started(server: Server, script: str, folder: Path, *arguments: str) -> str:
    """What a script prints. Fails where it ends with another status than 0."""
    ended = server.script(SCRIPTS[script], *arguments, cwd=folder)
    assert ended.returncode == 0, f"experiments/{script} {' '.join(arguments)}\n{ended.stderr}"
    return ended.stdout


def test_those_that_are_not_run_exist():
    assert {*HELP_ALONE, *OF_A_STORE} < SCRIPTS.keys()
    assert len(SCRIPTS) > 20


@pytest.mark.parametrize(
    "script", [name for name in SCRIPTS if name not in {*HELP_ALONE, *OF_A_STORE}]
)
def test_a_script_runs_at_a_tiny_size(script, ran):
    """A new script needs the option `--tiny`, with which it runs in a second, and no other."""
    assert printed(script, ran(script))


@pytest.mark.parametrize("script", HELP_ALONE)
def test_a_script_shows_its_options(script, ran):
    assert "usage" in printed(script, ran(script))


@pytest.mark.parametrize("script", OF_A_STORE)
def test_a_script_says_what_the_store_lacks(script, server, tmp_path):
    ended = server.script(SCRIPTS[script], str(tmp_path), cwd=tmp_path)
    assert ended.returncode == 1
    assert f"{tmp_path} holds no scores" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("script", ["threads/spin.py", "reliability/disk_images.py",
                                    "reliability/full_disk.py"])  # fmt: skip
def test_a_longer_script_runs_at_a_tiny_size(script, server, tmp_path):
    if script.startswith("reliability") and not MOUNTS:
        pytest.skip("mounts file systems: needs root and mkfs.ext4")
    assert "|" in started(server, script, tmp_path, "--tiny")
