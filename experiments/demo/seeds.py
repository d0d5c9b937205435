"""Does the demo learn in every seed? The whole chain, drawings and tower included, seed by seed.

    python experiments/demo/seeds.py [FOLDER] [--seeds 0 1 ...] [--overrides KEY=VALUE ...]

A seed is a store in FOLDER, with its log; what a store has is not computed again. Ends with the
table of `images.py` over all of them and the seconds of each stage, mean over seeds.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from images import main as table

SEEDED = "demo_pool towers untrained finder checker chooser start proxy".split()
COMMAND = (
    "-m goal=scores selector=full subset.fraction=1 subset.text_only=ranked "
    "generation.control=none,shuffled"
).split()


def chain(store: Path, seed: int, overrides: list[str]) -> None:
    """Everything up to the reference's scores, with its own images and with shuffled ones."""
    seeds = [f"{name}.seed={seed}" for name in SEEDED]
    with Path(f"{store}.log").open("a") as log:
        subprocess.run(
            [sys.executable, "-m", "xmas", *COMMAND, f"store.root={store}", *seeds,
             f"reference.seeds=[{seed}]", f"seed={seed}", *overrides],
            check=True, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip


def seconds(stores: list[Path]) -> None:
    """Mean over stores of what each kind of stage took there in all."""
    by_kind = defaultdict(list)
    for store in stores:
        taken = defaultdict(float)
        for meta in store.glob("*/*/meta.json"):
            record = json.loads(meta.read_text())
            taken[record["kind"]] += record["seconds"]
        for kind, value in taken.items():
            by_kind[kind].append(value)
    for kind, values in sorted(by_kind.items(), key=lambda pair: -statistics.fmean(pair[1])):
        if (mean := statistics.fmean(values)) >= 1:
            print(f"{kind:14s} {mean:6.1f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("store-of-seeds"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--overrides", nargs="*", default=[])
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    stores = [asked.folder / str(seed) for seed in asked.seeds]
    for store, seed in zip(stores, asked.seeds, strict=True):
        chain(store, seed, asked.overrides)
    table([str(store) for store in stores])
    seconds(stores)
