"""Cut the power at every moment of stages of every kind; see whether the same command recovers.

    python experiments/reliability/power_cuts.py [JOB ...] [--moments N] [--folder FOLDER]

On the tests' toy pool of 41 rows each job runs once while its syncs are recorded. For every moment
before a sync, or for as many of them at random, disks are built as a power cut may leave them:
without anything that was not synced, with all names but no unsynced content, and twice at random in
between. On each the job runs again; on one of ten the power is cut a second time while it does.
Expected: every run ends with the files of the run without a cut, and leaves no others. Prints a
table; ends with status 1 otherwise.
"""

import argparse
import collections
import logging
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import toy as toys  # of the tests
from power_cut import JOBS, Job, Moment, Recording, disk, record, run

TRIED = ("dropped", "names", "random", "random")
TWICE = 10  # one of this many cuts is followed by a second


class Campaign:
    """The cuts of a job, in folders under `folder`."""

    def __init__(self, name: str, toy: toys.Toy, folder: Path) -> None:
        self.job: Job = JOBS[name]
        self.name, self.toy, self.folder = name, toy, folder
        self.rng = random.Random(name)
        self.counts: collections.Counter[str] = collections.Counter()

    def run(self, limit: int) -> None:
        started = time.monotonic()
        moments, self.expected = record(self.job, self.toy, self.folder / "whole")
        self.counts["moments"] = len(moments)
        if len(moments) > limit:
            moments = self.rng.sample(moments, limit)
        for moment in moments:
            for how in TRIED:
                self.cut(moment, how, self.counts["cuts"] % TWICE == 0)
        self.counts["seconds"] = round(time.monotonic() - started)

    def cut(self, moment: Moment, how: str, twice: bool) -> None:
        self.counts["cuts"] += 1
        root = self.folder / "cut"
        disk(moment, root, self.rng, how)
        if twice:
            self.counts["second cuts"] += 1
            with Recording(root) as recording:
                self.check(root, moment, how)
            moment = self.rng.choice(recording.moments)
            shutil.rmtree(root)
            disk(moment, root, self.rng, how)
        self.check(root, moment, how)
        shutil.rmtree(root)

    def check(self, root: Path, moment: Moment, how: str) -> None:
        where = f"{self.name}, {how}, moment {self.counts['cuts'] // len(TRIED)} ({moment.what})"
        try:
            files = run(self.job, self.toy, root)
        except Exception:
            self.counts["errors"] += 1
            print(where, traceback.format_exc(), flush=True)
            return
        if files != self.expected:
            self.counts["other files"] += 1
            names = files.keys() | self.expected.keys()
            wrong = [name for name in names if files.get(name) != self.expected.get(name)]
            print(where, sorted(wrong)[:5], flush=True)


def main(folder: Path, names: list[str], limit: int) -> int:
    os.fsync = lambda descriptor: None  # the toy's own results; recordings have their own
    logging.disable(logging.CRITICAL)
    toy = toys.build(folder / "toy")
    columns = ("moments", "cuts", "second cuts", "errors", "other files", "seconds")
    print(f"| job | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}", flush=True)
    failures = 0
    for name in names:
        campaign = Campaign(name, toy, folder / name)
        campaign.run(limit)
        cells = " | ".join(str(campaign.counts[column]) for column in columns)
        print(f"| {name} | {cells} |", flush=True)
        failures += campaign.counts["errors"] + campaign.counts["other files"]
    return int(failures > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"of {', '.join(JOBS)}; all")
    parser.add_argument("--moments", type=int, default=sys.maxsize, help="at most, of each job")
    parser.add_argument("--folder", type=Path, help="for stores; default: a temporary one")
    parser.add_argument("--tiny", action="store_true", help="a moment of one job, to see it runs")
    given = parser.parse_args()
    if unknown := {*given.jobs} - {*JOBS}:
        parser.error(f"no job: {', '.join(sorted(unknown))}; there are {', '.join(JOBS)}")
    if given.tiny:
        given.jobs, given.moments = ["subset"], 1
    with tempfile.TemporaryDirectory() as temporary:
        place = given.folder or Path(temporary)
        sys.exit(main(place, given.jobs or list(JOBS), given.moments))
