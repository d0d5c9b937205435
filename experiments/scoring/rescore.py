"""How long `goal=rescore` takes for the full answers to each benchmark, and whether torch loads.

    python experiments/scoring/rescore.py

Files in the official formats and row counts are generated (`tests/official.py`); MMBench's images
have the size of real ones. Each benchmark is scored by the command in a new process, into an
empty store; a second time from the store. "Reading" is what no scorer can avoid: all files once
through sha256 and once through Python's json or csv, in this process. Seconds are wall-clock time,
in brackets CPU time.
"""

import argparse
import csv
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[2] / "tests"
sys.path.insert(0, str(TESTS))

import official  # noqa: E402  # of the tests

IMAGE = 22_500  # bytes, 30,000 in base64
COMMAND = (
    "import sys; sys.argv[0] = 'xmas'\n"
    "from xmas.cli.command import main\n"
    "main(); print('torch' in sys.modules, file=sys.stderr)"
)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--tiny", action="store_true", help="SQA alone, once, to see that it runs")
    tiny = asked.parse_args().tiny
    writers = (official.sqa,) if tiny else official.WRITERS
    print("| benchmark | questions | files, MB | reading, s | goal=rescore, s | again, s | torch |")
    print("|---|---:|---:|---:|---:|---:|---|")
    for write in writers:
        name = write.__name__
        with tempfile.TemporaryDirectory() as folder:
            more = {"image": IMAGE} if name.startswith("mmbench") else {}
            of = write(Path(folder), np.random.default_rng(0), **more)
            files = {*of.files, of.answers}
            size = sum(file.stat().st_size for file in files) / 1e6
            reading, _ = timed(lambda files=files: [read(file) for file in files])
            first, said = timed(lambda of=of, folder=folder: rescore(of, folder))
            again, _ = (
                ("not run", None)
                if tiny
                else timed(lambda of=of, folder=folder: rescore(of, folder))
            )
        torch = "loaded" if said.stderr.split()[-1] == "True" else "not loaded"
        num = json.loads(said.stdout.splitlines()[-1])["num"]
        print(
            f"| {name} | {num:,} | {size:.1f} | {reading} | {first} | {again} | {torch} |",
            flush=True,
        )


def timed(work: Callable[[], Any]) -> tuple[str, Any]:
    start = time.perf_counter(), spent()
    found = work()
    return f"{time.perf_counter() - start[0]:.1f} ({spent() - start[1]:.1f})", found


def spent() -> float:
    """Processor seconds of this process and of those it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def read(file: Path) -> None:
    with file.open("rb") as opened:
        hashlib.file_digest(opened, "sha256")
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".tsv":
        csv.field_size_limit(sys.maxsize)
        list(csv.DictReader(text.splitlines(), delimiter="\t"))
    elif file.suffix == ".json" and file.parent.name != "coco":
        json.loads(text)
    elif file.suffix != ".txt":
        [json.loads(line) for line in text.splitlines()]


def rescore(of: official.Given, folder: str) -> subprocess.CompletedProcess:
    fields = {field.name for field in dataclasses.fields(of.benchmark)}
    named = fields & {"questions", "annotations", "splits"}
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "goal=rescore", f"benchmark={of.benchmark.name}",
         f"rescore.answers={of.answers}", f"store.root={folder}/store",
         *(f"benchmark.{field}={getattr(of.benchmark, field)}" for field in sorted(named))],
        capture_output=True, text=True, check=True, cwd=folder,
    )  # fmt: skip


if __name__ == "__main__":
    main()
