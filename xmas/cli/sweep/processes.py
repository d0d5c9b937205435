"""Concurrent jobs on this host, a process each, so that the death of one does not affect others.

Processes are forked from a server that has imported what jobs import: starting one takes
milliseconds, while a new interpreter would import torch again. A pool of workers would be less
code, but those of joblib and of the standard library abort all jobs when one process dies.
"""

import json
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from xmas.cli.config import goal_node
from xmas.cli.config_error import ConfigError
from xmas.cli.resolved import resolved
from xmas.cli.sweep import server
from xmas.cli.sweep.job import Job, Outcome, run_elsewhere
from xmas.cli.targets import OWN, targets, within
from xmas.cli.threads import share_cores

_IN_EVERY_JOB = (
    "xmas.cli.command",
    "pandas",  # imported by pyarrow in every job on a pool of Parquet
    "pyarrow.parquet",
)


def outcomes(
    jobs: Sequence[Job], context: HydraContext, *, gpus: Sequence[str | None]
) -> Iterator[Outcome]:
    """Run the jobs, as many at a time as `gpus` has entries; yield each outcome when its job ends.

    Without OMP_NUM_THREADS in the environment, every job may use the same number of cores.

    Args:
        gpus: those that each of the concurrent jobs sees; None: all.
    """
    share_cores(len(gpus))
    processes = multiprocessing.get_context("forkserver")
    os.environ[server.IMPORTS] = json.dumps(imported_once(jobs))
    processes.set_forkserver_preload([server.__name__])
    free: SimpleQueue[str | None] = SimpleQueue()
    for visible in gpus:
        free.put(visible)
    running: set[BaseProcess] = set()

    def one(job: Job) -> Outcome:
        visible = free.get()
        receive, send = processes.Pipe(duplex=False)
        process = processes.Process(target=_child, args=(job, context, visible, send))
        process.start()
        running.add(process)
        send.close()
        try:
            outcome = receive.recv()
        except EOFError:
            process.join()
            outcome = Outcome(job, 0.0, _death(process.exitcode))
        process.join()
        running.discard(process)
        free.put(visible)
        return outcome

    with ThreadPoolExecutor(len(gpus)) as threads:
        waiting = [threads.submit(one, job) for job in jobs]
        try:
            for ended in as_completed(waiting):
                yield ended.result()
        finally:  # where the parent is interrupted
            os.environ.pop(server.IMPORTS, None)  # the server has its own
            for future in waiting:
                future.cancel()
            for process in list(running):
                process.terminate()


def imported_once(jobs: Sequence[Job]) -> list[str]:
    """Modules to import once, before jobs are forked.

    Of xmas, those of the classes that the goals name: where no model is among them, no torch.
    """
    by_choices: dict[str, set[str]] = {}
    for job in jobs:
        cfg: DictConfig = pickle.loads(job.config)
        choices = f"{cfg.get('goal')} {cfg.hydra.runtime.choices}"
        if choices not in by_choices:
            by_choices[choices] = {
                str(name).rpartition(".")[0]
                for _, name in targets(_goal(cfg))
                # no other package before the job has checked that it may; `xmas` is no class
                if str(name) != OWN and within(str(name), {OWN})
            }
    return [*_IN_EVERY_JOB, *sorted(set().union(*by_choices.values()))]


def _goal(cfg: DictConfig) -> Any:
    try:
        return resolved(goal_node(cfg))
    except (ConfigError, OmegaConfBaseException):
        return {}  # the job itself says what is wrong with it


def _child(job: Job, context: HydraContext, visible: str | None, send: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=end_with_parent, daemon=True).start()
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    say_into(job.log)
    send.send(run_elsewhere(job, context))


def end_with_parent() -> None:
    """End this process when the command that started it has ended, however that was.

    A command that is terminated or killed runs no code for its jobs, which would go on for days.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def say_into(path: str) -> None:
    """Append the output of this process to a file, also that of C++ code."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"its process ended with status {code} and no result"
