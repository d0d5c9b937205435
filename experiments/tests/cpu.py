"""CPU seconds of every test and fixture: a plugin of pytest, and a script that sums its records.

    PYTHONPATH=experiments/tests .venv/bin/pytest -q -n 2 --dist loadfile --no-loadscope-reorder \
        -p cpu -m "not slow and not gpu and not emulated and not browser and not slurm"
    .venv/bin/python experiments/tests/cpu.py

Other work on the cores changes these much less than seconds of a clock. A process counts with its
children, running and finished; a worker writes a file into `CPU_RECORDS`.
"""

import argparse
import collections
import json
import os
import tempfile
import time
from pathlib import Path

import pytest

RECORDS = Path(os.environ.get("CPU_RECORDS", Path(tempfile.gettempdir(), "cpu-of-tests")))
TICK = os.sysconf("SC_CLK_TCK")  # of a second, the unit of /proc


def of_children(pid: int) -> float:
    """CPU seconds of the running children of a process, theirs included."""
    try:
        tasks = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        children = [int(child) for line in tasks for child in line.split()]
        fields = [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2] for child in children]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0  # one ended while it was read: next time it is among the finished
    ticks = sum(int(ticks) for line in fields for ticks in line.split()[11:15])
    return ticks / TICK + sum(map(of_children, children))


def seconds() -> float:
    return time.process_time() + sum(os.times()[2:4]) + of_children(os.getpid())


def write(kind: str, name: str, since: float = 0.0) -> None:
    line = json.dumps({"kind": kind, "name": name, "seconds": seconds() - since})
    with (RECORDS / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(line + "\n")


def pytest_collection_finish() -> None:
    RECORDS.mkdir(parents=True, exist_ok=True)
    write("process", "start and collection")


def pytest_sessionfinish() -> None:
    RECORDS.mkdir(parents=True, exist_ok=True)
    write("process", "whole")


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef, request: pytest.FixtureRequest):
    start = seconds()
    result = yield
    write("fixture", f"{fixturedef.scope} {fixturedef.argname} of {request.node.nodeid}", start)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    start = seconds()
    result = yield
    write("test", item.nodeid, start)
    return result


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--tiny", action="store_true", help="of one new test, to see that it runs")
    if asked.parse_args().tiny:
        test = Path(tempfile.mkdtemp()) / "test_one.py"
        test.write_text("def test_one(): pass\n")
        (test.parent / "pytest.ini").touch()
        pytest.main(["-q", "-p", "no:cacheprovider", "-p", Path(__file__).stem, str(test)])
    records = [json.loads(line) for path in RECORDS.glob("*.jsonl") for line in path.open()]
    sums: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for record in records:
        sums[record["kind"]][record["name"]] += record["seconds"]
        if record["kind"] == "test":
            sums["module"][record["name"].partition("::")[0]] += record["seconds"]
    for kind, costs in sums.items():
        print(
            f"\n{kind}", *(f"{cost:8.2f} {name}" for name, cost in costs.most_common(40)), sep="\n"
        )


if __name__ == "__main__":
    main()
