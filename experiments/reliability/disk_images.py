"""Cut the power of a real file system: copy its disk while stages run on it, and use the copy.

    sudo python experiments/reliability/disk_images.py [--cuts CUTS]

Each cut makes an ext4 file system in a file, mounts it, and starts a job of `power_cuts.py` in a
process with its store there. At a random moment, up to ten seconds after the job has ended, the
file is copied: it has what the kernel has written so far, and nothing that was in memory. The copy
is mounted, which replays its journal, and the job runs again on it. Expected: it ends with the
files of a run without a cut. At last an array is made on a file system that is full. Prints a
table; ends with status 1 otherwise. Mounting needs root; the files are in memory (/dev/shm).
"""

import argparse
import collections
import contextlib
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import torch
import toy as toys  # of the tests
from power_cut import JOBS, prepare, run

TRIED = ("subset", "tokens", "activations", "target", "trajectories", "score")
MEGABYTES = 64
AFTER = 10  # seconds after the end of a job, in which the last cut is made


@contextlib.contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        yield folder / "store"
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def new_image(image: Path, megabytes: int) -> None:
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)


def in_child(name: str, toy: toys.Toy, store: Path) -> int:
    """Start a job in a process that then waits, as a machine that stays on; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        run(JOBS[name], toy, store)
        (toy.folder / "ended").touch()
        time.sleep(600)
    finally:
        os._exit(1)


def cut(name: str, toy: toys.Toy, folder: Path, delay: float, expected: dict[str, bytes]) -> str:
    """The power fails `delay` seconds after the start of a job; what the next run makes of it."""
    image, copy = folder / "disk.img", folder / "copy.img"
    new_image(image, MEGABYTES)
    with mounted(image, folder / "disk") as store:
        prepare(JOBS[name], toy, store)
        subprocess.run(["sync", "-f", str(store)], check=True)
        child = in_child(name, toy, store)
        time.sleep(delay)
        shutil.copyfile(image, copy)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with mounted(copy, folder / "disk") as store:
        try:
            files = run(JOBS[name], toy, store)
        except Exception as error:
            print(f"{name}, {delay:.2f} s: {type(error).__name__}: {error}", file=sys.stderr)
            return "error"
    return "same files" if files == expected else "other files"


def full_disk(folder: Path) -> str:
    """What a process says that maps an array which does not fit."""
    image = folder / "disk.img"
    new_image(image, 8)
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from xmas.store.arrays import new_array\n"
        "new_array(Path(sys.argv[1]), np.float32, (10_000_000,))[:] = 1"
    )
    with mounted(image, folder / "disk") as store:
        ended = subprocess.run(
            [sys.executable, "-c", code, str(store.with_name("values.npy"))],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    return f"status {ended.returncode}: {ended.stderr.strip().rpartition(chr(10))[2]}"


def main(jobs: Sequence[str], cuts: int, folder: Path) -> int:
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    toy = toys.build(folder / "toy")
    outcomes = ("same files", "error", "other files")
    print(f"| job | seconds | cuts | {' | '.join(outcomes)} |\n|---|---:|---:|---:|---:|---:|")
    failures, rng = 0, random.Random(0)
    for name in jobs:
        store = folder / name / "store"  # away from the toy's files, which results name too
        prepare(JOBS[name], toy, store)
        started = time.monotonic()
        expected = run(JOBS[name], toy, store)
        seconds = time.monotonic() - started
        counts: collections.Counter[str] = collections.Counter()
        for number in range(cuts):
            delay = rng.uniform(0, 1.3 * seconds) + (AFTER * rng.random() if number % 2 else 0)
            counts[cut(name, toy, folder, delay, expected)] += 1
        cells = " | ".join(str(counts[outcome]) for outcome in outcomes)
        print(f"| {name} | {seconds:.1f} | {cuts} | {cells} |", flush=True)
        failures += cuts - counts["same files"]
    print(f"\nAn array of 40 MB on a file system of 8 MB: {full_disk(folder)}")
    return int(failures > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=20, help="of each job")
    parser.add_argument("--tiny", action="store_true", help="two cuts of one job, to see it runs")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as temporary:
        tried, cuts = (TRIED[:1], 2) if given.tiny else (TRIED, given.cuts)
        sys.exit(main(tried, cuts, Path(temporary)))
