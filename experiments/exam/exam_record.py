"""An exam of many selectors, one after another, then all of them in one table.

    python experiments/exam/exam_record.py STORE SELECTOR[,SELECTOR...] [--overrides KEY=VALUE ...]

Each is examined by a separate command, so that one that fails stops no other; what the store has
is not computed again, and the same command continues where it stopped, with a longer list too.
Writes `exam.md`, `exam.csv` and `seconds.csv` next to this script, or into `--out`.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from xmas import Pool, Store
from xmas.data.planted.planting import Planting
from xmas.results.exam.exam import Exam
from xmas.selection.methods.full import Full
from xmas.selection.methods.random import Random


def examine(store: Path, names: Sequence[str], overrides: Sequence[str], out: Path) -> int:
    """One exam; the status of its command. Its page and its log go to files in `out`."""
    name = "all" if len(names) > 1 else names[0]
    command = ["goal=exam", f"selector={','.join(names)}", f"store.root={store}", *overrides]
    with (out / f"{name}.md").open("w") as page, (out / f"{name}.log").open("a") as log:
        return subprocess.run(
            [sys.executable, "-m", "xmas", *command], stdout=page, stderr=log
        ).returncode


def record(store: Path, names: Sequence[str], overrides: Sequence[str], out: Path) -> None:
    """Every exam, and the joint one of the selectors that could be examined."""
    pages = out / "pages"
    pages.mkdir(parents=True, exist_ok=True)
    seconds_of = _read(out / "seconds.csv")
    examined = []
    for name in names:
        start = time.monotonic()
        status = examine(store, [name], overrides, pages)
        seconds = round(time.monotonic() - start)
        seconds_of[name] = (status, max(seconds, seconds_of.get(name, (0, 0))[1]))
        print(f"{name:20s} {'examined' if not status else 'failed':10s} {seconds:5d} s", flush=True)
        examined += [name] * (not status)
        _write(out / "seconds.csv", seconds_of)
    if len(examined) < 2 or examine(store, examined, overrides, pages):
        sys.exit("no joint exam: see the logs in pages/")
    folder = Path((pages / "all.md").read_text().splitlines()[-1])
    for name in ("exam.md", "exam.csv"):
        shutil.copyfile(folder / name, out / name)
    print(by_kind(store))


def by_kind(store: Path) -> str:
    """Seconds and results of every kind of stage in the store."""
    seconds: Counter[str] = Counter()
    results: Counter[str] = Counter()
    for meta in store.glob("[!.]*/[!.]*/meta.json"):
        facts = json.loads(meta.read_text())
        seconds[facts["kind"]] += facts["seconds"]
        results[facts["kind"]] += 1
    lines = [f"| {kind} | {results[kind]} | {of:.0f} |" for kind, of in seconds.most_common(12)]
    return "\n".join(["| stage | results | seconds |", "|---|---:|---:|", *lines])


def _read(path: Path) -> dict[str, tuple[int, int]]:
    if not path.exists():
        return {}
    with path.open() as file:
        return {name: (int(status), int(of)) for name, status, of in csv.reader(file)}


def _write(path: Path, seconds_of: dict[str, tuple[int, int]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([name, *of] for name, of in seconds_of.items())


def tiny() -> None:
    """Two selectors on a pool of 97 rows of noise, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        rng, records = np.random.default_rng(0), []
        for row in range(97):
            noise = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(noise).save(f"{folder}/{row}.png")
            turns = [("human", f"<image>\nWhat is {row}?"), ("gpt", f"It is {row % 11}.")]
            conversation = [{"from": role, "value": text} for role, text in turns]
            record_of_row = {"id": row, "image": f"{row}.png", "conversations": conversation}
            records.append(record_of_row)
        Path(f"{folder}/pool.json").write_text(json.dumps(records))
        pool = Pool(f"{folder}/pool.json", folder)
        planting = Planting(inflated=0.0)
        exam = Exam(pool, {"random": Random(), "full": Full()}, planting=planting)
        store = Store(f"{folder}/store")
        print(exam.make(store))
        print(by_kind(Path(store.root)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", nargs="?", type=Path, default=Path("store"))
    parser.add_argument("selectors", nargs="?", default="random,length")
    parser.add_argument("--overrides", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--tiny", action="store_true", help="97 rows, to see that it runs")
    options = parser.parse_args()
    if options.tiny:
        tiny()
    else:
        record(options.store, options.selectors.split(","), options.overrides, options.out)
