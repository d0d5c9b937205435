"""Seconds, processor seconds and peak memory of a piece of work, in a separate process."""

import json
import os
import time
from collections.abc import Callable
from typing import Any


def measured(prepare: Callable[[], Any], work: Callable[[Any], int]) -> dict[str, Any]:
    """Run `work` on what `prepare` gives, in a fork; returns its number under `result`.

    `seconds` and `processor` are of the work alone: imports belong to `prepare`. `peak` is the
    largest resident memory of the process or of one of those that it starts, in MB.
    """
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        status = 1
        try:
            prepared = prepare()
            before, start = os.times(), time.perf_counter()
            result = work(prepared)
            seconds, after = time.perf_counter() - start, os.times()
            processor = sum(after[:4]) - sum(before[:4])
            record = {"seconds": seconds, "processor": processor, "result": result}
            os.write(writing, json.dumps(record).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        content = file.read()
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{work} ended with status {status}")
    return json.loads(content) | {"peak": usage.ru_maxrss / 1024}


def load() -> str:
    """Processes that run or wait for a core, and the cores: who else is on this machine."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
