"""A sweep on SLURM whose node loses a process.

    python experiments/demo_sweep/slurm.py FOLDER

The same sweep of the smoke experiment three times. In one store it runs undisturbed, job after
job; in the other SLURM runs it, and a job's processes are killed while its target is trained; then
the same command runs again. Both stores' tables must have the same scores. As root, with the
Debian packages that tests/cluster.py names.
"""

import argparse
import csv
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from cluster import cluster

# A fit of the smoke experiment takes seconds: a checkpoint after every step, or none is ever seen.
SWEEP = (
    "-m goal=scores experiment=smoke selector=random,length seed=0,1 hardware.checkpoint_seconds=0"
).split()
ON_SLURM = (
    "hydra/launcher=slurm hydra.launcher.gpus_per_node=null hydra.launcher.cpus_per_task=1 "
    "hydra.launcher.timeout_min=30"
).split()
CLOCK = ("selection_hours", "training_hours", "total_of_full")  # no two runs take the same time


def started(store: Path, environment: dict[str, str], *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "xmas", *SWEEP, f"store.root={store}", *more]
    print("$ xmas", *command[3:], flush=True)
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def ended(sweep: subprocess.Popen) -> int:
    """Its exit status; what it said of its jobs is printed."""
    said = sweep.communicate()[1].replace("\r", "\n").splitlines()
    told = [line for line in said if "SLURM" in line or line.startswith(("xmas:", "  #", "  log"))]
    print(*told, f"exit status {sweep.returncode}", sep="\n", flush=True)
    return sweep.returncode


def kill_while_fitting(store: Path, sweep: subprocess.Popen) -> None:
    """`kill -9` the processes of the first job whose target has a checkpoint."""
    while not (found := sorted(store.glob("target/.*/last.ckpt"))):
        if sweep.poll() is not None:
            sys.exit("the sweep ended before a target was half fitted")
        time.sleep(0.05)
    fitted = found[0].parent.name.strip(".").split(".")[0]
    logs = {path: path.read_text() for path in (store / "logs").glob("*.log")}
    log = next(path for path, text in logs.items() if f"target         {fitted}" in text)
    writers = [pid for pid in Path("/proc").glob("[0-9]*") if log in _open_files(pid)]
    if not writers:
        sys.exit(f"no process writes {log}")
    jobs = {_variable(pid, "SLURM_JOB_ID") for pid in writers}
    print(
        f"kill -9 {' '.join(pid.name for pid in writers)}, SLURM job {' '.join(jobs)}, {log.name}"
    )
    subprocess.run(["kill", "-9", *(pid.name for pid in writers)], check=True)


def _open_files(process: Path) -> list[Path]:
    try:
        return [link.resolve() for link in (process / "fd").iterdir()]
    except (FileNotFoundError, PermissionError):  # it has ended since it was listed
        return []


def _variable(process: Path, name: str) -> str:
    held = (process / "environ").read_bytes().decode().split("\0")
    return next(one.partition("=")[2] for one in held if one.startswith(f"{name}="))


def table(store: Path, environment: dict[str, str]) -> list[dict[str, str]]:
    command = [sys.executable, "-m", "xmas", "goal=table", f"store.root={store}"]
    command += ["experiment=smoke"]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    with (store / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in lines]


def main(folder: Path) -> None:
    with cluster(folder / "cluster") as environment:
        environment = environment | {"OMP_NUM_THREADS": "1"}
        undisturbed, disturbed = folder / "undisturbed", folder / "disturbed"
        assert ended(started(undisturbed, environment)) == 0
        sweep = started(disturbed, environment, *ON_SLURM)
        kill_while_fitting(disturbed, sweep)
        assert ended(sweep) == 1, "a killed job has to be named"
        assert ended(started(disturbed, environment, *ON_SLURM)) == 0
        one, other = (table(store, environment) for store in (undisturbed, disturbed))
    different = [pair for pair in zip(one, other, strict=True) if pair[0] != pair[1]]
    print((disturbed / "table.md").read_text())
    print(f"{len(one)} lines of table.csv, {len(different)} of them different")
    sys.exit(bool(different))


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("folder", type=Path, help="for both stores and SLURM's files")
    main(asked.parse_args().folder.resolve())
