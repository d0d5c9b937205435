"""A SLURM cluster of one node on this host, from Debian's packages, as root, without accounting.

`apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge`. Where that is
missing, a launcher has to find out by itself that a job is dead: the harder case.
"""

import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONF = """
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
JobRequeue=0
KillWait=2
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} CPUs={cores} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which its commands find it; everything that was started is ended."""
    subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "/run/munge"], check=True)
    for part in ("state", "spool"):
        (folder / part).mkdir(parents=True)
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=platform.node(), folder=folder, cores=os.cpu_count()))
    environment = os.environ | {"SLURM_CONF": str(conf)}
    running = [
        subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        for command in (
            [
                *("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups"),
                *("munged", "--foreground", "--force"),
            ],
            ["slurmctld", "-D", "-c"],
            ["slurmd", "-D", "-c"],
        )
        if not (command[-2] == "--foreground" and _munge_runs())
    ]
    try:
        _wait_for_node(environment)
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(30)


def _munge_runs() -> bool:
    return subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0


def _wait_for_node(environment: dict[str, str]) -> None:
    until = time.monotonic() + 60
    said = ""
    while time.monotonic() < until:
        said = subprocess.run(
            ["sinfo", "--noheader", "--format=%t"],
            env=environment, capture_output=True, text=True, check=False,
        ).stdout.strip()  # fmt: skip
        if said == "idle":
            return
        time.sleep(0.5)
    raise TimeoutError(f"the node is {said or 'not there'} after 60 s")
