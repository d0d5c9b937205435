"""Jobs in other Python processes, which share no lock, thread or GPU with this one.

`multiprocessing` would run the user's main module again in each, or copy a process with threads.
"""

import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def side_by_side(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """The results of all jobs, which can be pickled, in their order; a process a core.

    Raises what a job raises: the first of them in their order.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = min(len(jobs), cores or 1)
    if count < 2:
        return [job() for job in jobs]
    numbers, lock = itertools.count(), threading.Lock()
    results: list[T | BaseException] = [RuntimeError("did not run")] * len(jobs)

    def work(_: int) -> None:
        with _process() as process:
            assert process.stdin is not None
            assert process.stdout is not None
            while True:
                with lock:
                    number = next(numbers)
                if number >= len(jobs):
                    process.stdin.close()
                    return
                pickle.dump(jobs[number], process.stdin)
                process.stdin.flush()
                try:
                    results[number] = pickle.load(process.stdout)
                except EOFError as error:
                    status = process.wait()
                    raise RuntimeError(f"a process of {__name__} ended with {status}") from error

    with ThreadPoolExecutor(count) as threads:
        list(threads.map(work, range(count)))
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # pyright: ignore[reportReturnType]  # none of them is an error


def _process() -> subprocess.Popen[bytes]:
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    return subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},  # Arrow's threads too
    )


def _serve() -> None:
    """Run jobs as they come until there are no more; an error is a result too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as the process that waits for it, silently
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a job prints is no result
    while True:
        try:
            job = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            result = job()
        except Exception as error:
            result = error
        pickle.dump(result, output)
        output.flush()


if __name__ == "__main__":
    _serve()
