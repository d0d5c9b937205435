"""Starting is quick: what a command imports, counted in modules, which no other work slows down."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from scored import Shelves

HEAVY = {"torch", "transformers", "lightning", "peft", "faiss", "datasets", "wandb", "matplotlib",
         "pandas"}  # fmt: skip
CODE = """
import gc, json, os, sys
def run(*arguments):
    from xmas.cli.entry import main
    os.environ.pop("XMAS_STARTED", None)  # or all were one command
    sys.argv = ["xmas", *arguments]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, ended.code
    assert gc.isenabled(), "a goal was made without collecting garbage"
    assert "--help" in arguments or gc.get_freeze_count() > 50_000, "imports are collected"
for steps in json.load(sys.stdin):
    if os.fork():
        assert os.wait()[1] == 0
        continue
    for name, step in steps.items():
        exec(step) if isinstance(step, str) else run(*step)
        print("LOADED", json.dumps([name, [*sys.modules]]), flush=True)
    break
"""


@pytest.fixture(scope="module")
def loaded(toy, tmp_path_factory):
    """The modules that a fresh interpreter has loaded after each step, and those before it."""
    store = tmp_path_factory.mktemp("starting")
    add = Shelves(store)
    add("full", "gqa", 60.0)
    add("random", "gqa", 48.0)
    subset = [*toy.overrides(), f"store.root={store}", "selector=random"]
    python = {
        "interpreter": "",
        "import": "import xmas",
        "names": "from xmas import Pool, Ranking, Selector, Stage, Store, Subset, Table, scores",
        "clean": "import xmas.results.inventory, xmas.results.clean",
        "benchmarks": "from xmas.evaluation.facts import known; assert len(known()) > 9",
        "doctor": "import xmas.doctor.benchmarks, xmas.doctor.files, xmas.doctor.machine",
        "report": "import xmas.results.report.page",
        "last": "import this",
        "jobs": "import importlib; from xmas.cli.sweep import processes; "
        "[importlib.import_module(name) for name in processes.imported_once([])]",
    }
    command = {
        "help": ["--help"],
        "table": ["goal=table", f"store.root={store}"],
        "quick": f"sys.path.append({str(Path(__file__).parent)!r}); "
        "from composing import quick_commands; quick_commands()",  # one composition is enough
        "subset": subset,
        "column": [*subset[:-1], "selector=column", f"selector.file={toy.scores}"],
        "subset again": subset,
        "subset, forced": [*subset, "force=subset"],
    }
    ended = subprocess.run(
        [sys.executable, "-c", CODE], input=json.dumps([python, command]),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ended.stderr.count(" computing") == 5  # twice a ranking, three times a subset
    lines = [line for line in ended.stdout.splitlines() if line.startswith("LOADED")]
    return {name: set(names) for name, names in (json.loads(line[7:]) for line in lines)}


def test_nothing_heavy_is_loaded_for_what_needs_none_of_it(loaded):
    assert len(loaded) == 16
    for step, modules in loaded.items():
        assert modules & HEAVY == ({"pandas"} if step == "jobs" else set()), step
    assert "hydra" not in loaded["report"]
    assert "pyarrow" not in loaded["table"]
    assert not loaded["help"] & {"numpy", "hydra", "omegaconf", "yaml"}
    assert {name for name in loaded["import"] if name.startswith("xmas")} == {"xmas"}


def test_what_is_loaded_is_seen(loaded):
    """Or nothing would ever be heavy."""
    assert {"xmas.data.pool", "xmas.selection.subset"} <= loaded["names"]
    assert {"hydra", "xmas.data.readers.llava"} <= loaded["subset"]
    assert "this" in loaded["last"] - loaded["report"]


@pytest.mark.parametrize(
    ("step", "before", "limit"),
    [
        ("import", "interpreter", 15),
        ("help", "interpreter", 200),
        ("table", "interpreter", 650),
        ("subset", "table", 100),  # with pyarrow
    ],
)
def test_imports_have_a_budget(loaded, step, before, limit):
    """In modules, the standard library's included: about a millisecond of a core each."""
    added = loaded[step] - loaded[before]
    assert len(added) <= limit, sorted(added)
