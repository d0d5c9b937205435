"""The scripts of `experiments/gpu` run whole at their tiny size: the first hour on this device."""

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "experiments" / "gpu"
ABSENT = {  # what the emulated device does not have
    "fit: LoRA bf16, FSDP2 over one card": "NCCL",
    "clusters: FAISS": "faiss",
}


@pytest.mark.filterwarnings("default")  # of the libraries, as in a process of the script's own
def test_the_first_hour_passes_whole(tmp_path, monkeypatch, capsys):
    out = tmp_path / "first_hour.jsonl"
    script = str(SCRIPTS / "first_hour.py")
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(sys, "argv", [script, "--tiny", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")
    records = {line["part"]: line for line in map(json.loads, out.read_text().splitlines())}
    failed = {name: line["why"] for name, line in records.items() if line["state"] == "FAILED"}
    assert not failed
    assert ended.value.code == 0
    assert len(records) >= 16
    absent = {name: line["why"] for name, line in records.items() if line["state"] != "passed"}
    if importlib.util.find_spec("faiss"):
        assert absent.pop("clusters: FAISS", None) is None
    assert absent.items() <= ABSENT.items()
    assert records["machine"]["figures"]["device"].endswith("(emulated)")
    step = records["LoRA step against the plain recipe"]
    assert all(way["peak GB"] > 0 for way in step["figures"]["ways"])


def test_the_parts_import_nothing_that_hosts_with_gpus_lack(tmp_path):
    for name in ("hydra", "omegaconf", "faiss", "datasets", "pyarrow", "pandas", "wandb"):
        (tmp_path / f"{name}.py").write_text("raise ImportError(f'{__name__} is not installed')")
    ended = subprocess.run(
        [sys.executable, str(SCRIPTS / "first_hour.py"), "--list"],
        capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{SCRIPTS.parent.parent}"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) >= 16
