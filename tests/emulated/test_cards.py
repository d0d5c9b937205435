"""The script for several cards runs whole at a tiny size: the longest file here, so the first."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "experiments" / "gpu" / "several_cards.py"


def test_two_ranks_equal_one_process(tmp_path):
    """In processes of their own, over gloo: the emulated device has no collectives."""
    out = tmp_path / "several_cards.jsonl"
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), "--tiny", "--device", "cpu", "--out", str(out)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    states = [json.loads(line)["state"] for line in out.read_text().splitlines()]
    assert states == ["passed"] * 4
