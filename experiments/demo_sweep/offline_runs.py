"""What W&B would be sent of a sweep, read back.

    python experiments/demo_sweep/offline_runs.py STORE

Groups, runs and artifacts are counted, and the means of the runs' summaries are held against the
table that `xmas goal=table` wrote from the store.
"""

import argparse
import csv
import math
import sys
from collections import Counter, defaultdict
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from offline import offline_runs


def main(store: Path) -> None:
    runs = list(offline_runs(store / "logged").values())
    print(f"{len(runs)} runs, {sum(run.finished for run in runs)} finished")
    for group, kinds in sorted(_kinds(runs).items()):
        print(f"group {group}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    held = Counter(name.split("-")[0] for run in runs for name in run.artifacts)
    print("artifacts: " + ", ".join(f"{count} {kind}" for kind, count in sorted(held.items())))

    of = defaultdict(list)
    for run in runs:
        if run.job_type == "scores":
            of[run.config["selector"], run.config["rows"]].append(run)
    with (store / "table.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["origin"] == "measured"]
    compared, apart = 0, 0.0
    for line in lines:
        found = of[line["selector"], int(line["rows"] or 0)]
        if not found or line["score"] == "" or len(found) != int(line["seeds"]):
            continue
        name = f"score/{line['benchmark']}"
        if name in found[0].summary:
            mean = fmean(run.summary[name] for run in found)
            apart = max(apart, abs(mean - float(line["score"])))
            compared += 1
    print(f"{compared} scores of the table compared, at most {apart:.2g} apart")
    if not compared or not math.isclose(apart, 0, abs_tol=1e-9):
        sys.exit(1)


def _kinds(runs: list) -> dict[str, Counter]:
    kinds: dict[str, Counter] = defaultdict(Counter)
    for run in runs:
        kinds[run.group][run.job_type] += 1
    return kinds


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("store", type=Path, help="in which the sweep of README.md was logged")
    main(asked.parse_args().store)
