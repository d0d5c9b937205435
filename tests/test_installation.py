"""One way to install for each need: what runs no model needs no torch; the rest says what to do."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from scored import Shelves

from xmas.cli.command import OF_EXTRAS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
CODE = """
import json, sys
absent, commands = json.load(sys.stdin)
sys.modules |= dict.fromkeys(absent)  # importing them fails as if they were not installed
from composing import quick_commands
from xmas.cli.command import main
quick_commands()
for arguments in commands:
    sys.argv = ["xmas", *arguments]
    try:
        status = main() or 0
    except SystemExit as ended:
        print(ended.code, file=sys.stderr)
        status = 1
    print("STATUS", status, flush=True)
"""


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=]", line)[0] for line in requirements}


def test_models_are_an_extra_that_those_for_cpu_and_gpu_contain():
    assert names(EXTRAS["models"]) | {"faiss"} == OF_EXTRAS
    assert not names(PROJECT["dependencies"]) & OF_EXTRAS
    for flavour in ("cpu", "gpu"):
        assert EXTRAS[flavour] == ["xmas[models]", f"faiss-{flavour}>=1.9"]


@pytest.fixture(scope="module")
def without_models(toy, tmp_path_factory):
    """The statuses of commands, and all that they printed, where no package of models is."""
    import json

    store = tmp_path_factory.mktemp("without_models")
    add = Shelves(store)
    add("full", "gqa", 60.0)
    add("random", "gqa", 48.0)
    scores = toy.folder / "scores.csv"
    scores.write_text("row,score\n" + "".join(f"{row},{row % 7}\n" for row in range(41)))
    pool = ["pool=files", f"pool.annotations={toy.folder}/pool.json"]
    pool += [f"pool.images={toy.folder}/images", f"store.root={store}"]
    commands = {
        "random": [*pool, "selector=random"],
        "length": [*pool, "selector=length"],
        "column": [*pool, "selector=column", f"selector.file={scores}"],
        "table": ["goal=table", f"store.root={store}"],
        "doctor": [*pool, "goal=doctor"],
        "audit": [*pool, "goal=audit", "selector=random"],
        "xmas": [*pool, "selector=xmas", "proxy=small"],
    }
    ended = subprocess.run(
        [sys.executable, "-c", CODE],
        input=json.dumps([sorted(OF_EXTRAS - {"faiss"}), [*commands.values()]]),
        capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )  # fmt: skip
    statuses = re.findall(r"^STATUS (\d+)", ended.stdout, re.MULTILINE)
    return dict(zip(commands, map(int, statuses), strict=True)), ended.stdout + ended.stderr


@pytest.mark.parametrize("command", ["random", "length", "column", "table", "doctor", "audit"])
def test_what_runs_no_model_needs_no_torch(without_models, command):
    statuses, text = without_models
    assert statuses[command] == 0, text


def test_what_runs_a_model_says_what_to_install(without_models):
    statuses, text = without_models
    assert statuses["xmas"] == 1
    assert re.search(r"^xmas: this needs \w+, which is not installed: pip install 'xmas\[c", text,
                     re.MULTILINE)  # fmt: skip


def test_the_doctor_says_that_torch_is_not_there(without_models):
    _, text = without_models
    assert "WARN  torch: not installed: selectors without a model work" in text
    assert "pip install 'xmas[cpu]'" in text


def plan(folder: Path, *arguments: str) -> str:
    """What `make install` would do."""
    for file in (folder / "pyproject.toml", folder / "constraints.txt"):
        if not file.exists():  # one that is there must not become newer than what it installed
            file.touch()
    return subprocess.run(
        ["make", "-n", "-f", ROOT / "Makefile", "install", "VENV=.venv", *arguments],
        cwd=folder, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


def installed(folder: Path, flavour: str) -> None:
    (folder / ".venv").mkdir(exist_ok=True)
    for name in ("pyproject.toml", "constraints.txt", ".venv/installed"):  # the newest last
        (folder / name).write_text(flavour)


def test_make_install_pins_the_cpu_s_torch_and_no_cuda_s(tmp_path):
    cpu, cuda = plan(tmp_path), plan(tmp_path, "CUDA=1")
    assert "-e '.[cpu,dev]'" in cpu
    assert "grep -vE '^$'" in cpu
    assert "-e '.[gpu,dev]'" in cuda
    assert "grep -vE '^(torch|faiss-cpu)=='" in cuda


def test_make_keeps_what_is_installed_and_changes_it_when_asked(tmp_path):
    for flavour, other in (("cpu", ["CUDA=1"]), ("gpu", ["CUDA="])):
        installed(tmp_path, flavour)
        assert "pip" not in plan(tmp_path)
        assert "pip" in plan(tmp_path, *other)
