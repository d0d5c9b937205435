"""Fill disks of many sizes with results of every kind, then give them space and continue.

    sudo python experiments/reliability/full_disk.py

A file system in memory (tmpfs, so root is needed) of a few megabytes fills up somewhere else at
each size. Expected: one error that says that the disk is full and names a file, and no other; with
more space, the same calls in a new process continue, and their results have the bytes of those of a
disk that was never full. Prints a table; ends with status 1 if a size did otherwise.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
SIZES = (200, 400, 600, 1500, 3000, 4000)  # kB; all results together have more
TINY_SIZES = (100,)
_FILL = (
    "import logging, pathlib, sys, corruption\n"
    "logging.disable(logging.WARNING)\n"
    "try:\n"
    "    corruption.fill(pathlib.Path(sys.argv[1]), tiny='tiny' in sys.argv)\n"
    "except Exception as error:\n"
    "    print(f'{type(error).__name__}: {error}')\n"
    "    sys.exit(1)\n"
)
_TIMES = {"meta.json", "manifest.json", "scan_seconds.json"}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--tiny", action="store_true", help="one subset, to see that it runs")
    tiny = asked.parse_args().tiny
    place = Path(tempfile.mkdtemp())
    (place / "never").mkdir()
    assert fill(place / "never", tiny) == ""
    expected = hashes(place / "never")
    disk = place / "disk"
    disk.mkdir()
    print("| disk, kB | seconds | what was said | results after more space |")
    print("|---:|---:|---|---|")
    wrong = 0
    for size in TINY_SIZES if tiny else SIZES:
        start_time = time.monotonic()
        run("mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(disk))
        try:
            message = fill(disk, tiny)
            run("mount", "-o", "remount,size=200m", str(disk))
            again = fill(disk, tiny)
            same = again == "" and hashes(disk) == expected
        finally:
            run("umount", str(disk))
        named = "disk is full" in message and str(disk) in message
        wrong += not (named and same)
        state = "the same" if same else f"OTHERS {again}"
        text = message.replace(str(disk), "DISK")[:160] or "nothing"
        print(f"| {size:,} | {time.monotonic() - start_time:.0f} | {text} | {state} |", flush=True)
    sys.exit(bool(wrong))


def fill(place: Path, tiny: bool) -> str:
    """Make every kind of result in a new process; the last line that it prints, its error."""
    paths = os.pathsep.join(map(str, (HERE, HERE.parents[1])))
    process = subprocess.run(
        [sys.executable, "-c", _FILL, place, *(["tiny"] if tiny else [])],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = process.stdout.strip().splitlines()
    return lines[-1] if lines else "" if process.returncode == 0 else f"status {process.returncode}"


def hashes(place: Path) -> dict[str, str]:
    """The sha256 of every file of the finished results, without those that contain times. Some name
    the folder that they are in, which is left out.
    """
    paths = [path for path in (place / "store").glob("*/[!.]*/**/*") if path.is_file()]
    return {
        path.relative_to(place).as_posix(): hashlib.sha256(
            path.read_bytes().replace(str(place).encode(), b"")
        ).hexdigest()
        for path in paths
        if path.name not in _TIMES and "by-name" not in path.parts
    }


def run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
