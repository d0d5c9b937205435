"""CPU seconds of every test and fixture, with those of the processes they start.

A plugin of pytest, and a script that sums what it wrote:

    PYTHONPATH=experiments/tests .venv/bin/pytest -q -n 2 --dist loadgroup -p cpu \
        -m "not slow and not gpu and not browser and not slurm"
    .venv/bin/python experiments/tests/cpu.py

Seconds of a clock depend on what else runs on the cores; those of the processor much less. A
process counts with all its children, finished ones too. Each worker writes a file of its own, in
the folder `CPU_RECORDS`.
"""

import collections
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

RECORDS = Path(os.environ.get("CPU_RECORDS", Path(tempfile.gettempdir(), "cpu-of-tests")))
TICK = os.sysconf("SC_CLK_TCK")  # of a second, the unit of /proc


def children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        yield from map(int, task.read_text().split())


def of_process(pid: int) -> float:
    """CPU seconds of a running process: its own, its finished and its running children's."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / TICK + sum(map(of_process, children(pid)))
    except (FileNotFoundError, ProcessLookupError):
        return 0.0  # it ended while it was read: next time it is among the finished


def seconds() -> float:
    return time.process_time() + sum(os.times()[2:4]) + sum(map(of_process, children(os.getpid())))


def write(kind: str, name: str, since: float) -> None:
    line = json.dumps({"kind": kind, "name": name, "seconds": seconds() - since})
    with (RECORDS / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(line + "\n")


def pytest_sessionstart(session: pytest.Session) -> None:
    RECORDS.mkdir(parents=True, exist_ok=True)


def pytest_collection_finish(session: pytest.Session) -> None:
    write("session", "start and collection", 0.0)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef, request: pytest.FixtureRequest):
    start = seconds()
    try:
        return (yield)
    finally:
        write("fixture", f"{fixturedef.scope} {fixturedef.argname} of {request.node.nodeid}", start)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    start = seconds()
    try:
        return (yield)
    finally:
        write("test", item.nodeid, start)


def pytest_sessionfinish(session: pytest.Session) -> None:
    write("session", "all", 0.0)


if __name__ == "__main__":
    records = [json.loads(line) for p in RECORDS.glob("*.jsonl") for line in p.open()]
    modules: collections.Counter[str] = collections.Counter()
    for record in records:
        if record["kind"] == "test":
            modules[record["name"].partition("::")[0]] += record["seconds"]
    for kind in ("session", "fixture", "test"):
        print(f"\n{kind}")
        ordered = sorted((r for r in records if r["kind"] == kind), key=lambda r: -r["seconds"])
        for record in ordered[: int(sys.argv[1]) if sys.argv[1:] else 40]:
            print(f"{record['seconds']:8.2f} {record['name']}")
    print("\nmodule")
    for name, cost in modules.most_common():
        print(f"{cost:8.2f} {name}")
