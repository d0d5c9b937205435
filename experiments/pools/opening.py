"""Opening a pool in LLaVA's JSON next to a plain pass of orjson over the same bytes.

    python experiments/pools/opening.py [--rows 665298] [--folder DIR] [--before CHECKOUT]

Each is a separate process, one after the other in every round; the best of all rounds counts.
`--before` opens the same file with the package of an earlier commit, from its checkout.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from made import llava_json
from measured import load, measured

ROWS = 665_298


def loader() -> Any:
    """What somebody parses JSON with who is in a hurry."""
    try:
        from orjson import loads
    except ModuleNotFoundError:
        from json import loads
    return loads


def package() -> Any:
    """What opening needs, imported; it is the same in earlier commits."""
    import xmas.data.readers.llava
    from xmas import Pool, Store

    return xmas.data.readers.llava.LlavaRows, xmas.store.sha256_of, Pool, Store


def opened(path: Path, package: Any) -> int:
    """The index and the sha256 of the file, nothing stored."""
    rows_of, sha256_of, *_ = package
    rows = rows_of(path, path.parent)
    assert len(sha256_of(path)) == 64
    return len(rows)


def opened_with_store(path: Path, package: Any) -> int:
    """The first time the index is made and stored, then it is mapped."""
    *_, pool, store = package
    return len(pool(str(path), str(path.parent)).open(store(str(path.parent / "store"))))


def opened_before(path: Path, checkout: str) -> dict:
    """`opened`, in the package of an earlier commit."""
    environment = os.environ | {"PYTHONPATH": checkout}
    command = [sys.executable, __file__, "--opened", str(path)]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(output.stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where the pool is made, or was; by default a new one")
    parser.add_argument("--before", help="a checkout of an earlier commit")
    parser.add_argument("--opened", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tiny", action="store_true", help="300 rows, one round")
    options = parser.parse_args()
    if options.opened:
        print(json.dumps(measured(package, functools.partial(opened, options.opened))))
        return
    rows, rounds = (300, 1) if options.tiny else (options.rows, options.rounds)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        path = folder / f"{rows}.json"
        if not path.exists():
            llava_json(path, rows)
        parts = {
            "orjson.loads(bytes)": lambda: measured(
                loader, lambda loads: len(loads(path.read_bytes()))
            )
        }
        if options.before:
            parts["opened before"] = lambda: opened_before(path, options.before)
        parts["opened"] = lambda: measured(package, functools.partial(opened, path))
        parts["opened, index stored"] = lambda: measured(
            package, functools.partial(opened_with_store, path)
        )
        runs = {name: [] for name in parts}
        for number in range(rounds):
            print(f"round {number}: {load()}", flush=True)
            for name, part in parts.items():
                runs[name].append(part())
    print(f"\n{rows:,} rows, {path.name}\n\n| | seconds | of orjson's | processor s | peak MB |")
    print("|---|---|---|---|---|")
    base = min(run["seconds"] for run in runs["orjson.loads(bytes)"])
    for name, several in runs.items():
        best = min(several, key=lambda run: run["seconds"])
        assert best["result"] == rows
        shown = f"{best['seconds']:.2f} | {best['seconds'] / base:.2f}"
        print(f"| {name} | {shown} | {best['processor']:.2f} | {best['peak']:.0f} |")


if __name__ == "__main__":
    main()
