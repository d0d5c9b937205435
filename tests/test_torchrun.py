"""The whole command under torchrun makes what one process makes."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_resume import TIMES

HERE = Path(__file__).parent
SMOKE = "experiment=smoke", "selector=xmas"
FITS = "captioned", "finder", "checker", "chooser", "start", "proxy", "target"
COMMAND = (
    "xmas", "goal=scores", *SMOKE, "hardware=ddp", "hardware.accelerator=cpu", "hardware.workers=0",
)  # fmt: skip
TORCHRUN = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"


def run(root: Path, halves: list[str], *before: str, devices: int) -> None:
    ended = subprocess.run(
        [sys.executable, *before, "-m", *COMMAND, *halves, f"hardware.devices={devices}",
         f"store.root={root}"],
        cwd=root.parent, capture_output=True, text=True, timeout=1500,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count(f"{root}/scores/") == 1  # rank 0 alone says what came of it


def files(root: Path) -> dict[str, str]:
    """The sha256 of every file of a finished result, but for records of time.

    An adapter names the folder of its base model.
    """
    return {
        str(file.relative_to(root)): hashlib.sha256(
            file.read_bytes().replace(str(root).encode(), b"")
        ).hexdigest()
        for meta in root.glob("*/[!.]*/meta.json")
        for file in meta.parent.rglob("*")
        if file.is_file() and file.name not in {*TIMES, "manifest.json"}
    }


def compare(one: Path, two: Path) -> None:
    """Bit for bit: a step is two micro-batches, and a sum of two has no order."""
    found = files(one)
    kinds = {name.split("/")[0] for name in found}
    assert {"pretrained", "proxy", "trajectories", "clusters", "target", "score"} <= kinds
    assert files(two) == found
    assert not [left for left in two.glob("*/.*") if left.is_dir()]  # no draft
    for root, devices in ((one, 1), (two, 2)):
        made = [json.loads(meta.read_text())["devices"] for meta in root.glob("*/*/meta.json")]
        assert set(made) == {devices}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_torchrun_with_two_processes_makes_the_scores_of_one(tmp_path, compose):
    cfg = compose(*SMOKE)
    halves = [f"{name}.recipe.micro_batch={cfg[name].recipe.batch // 2}" for name in FITS]
    one, two = tmp_path / "one", tmp_path / "two"
    run(two, halves, *TORCHRUN, devices=2)
    run(one, halves, devices=1)
    compare(one, two)
