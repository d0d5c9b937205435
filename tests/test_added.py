"""The worked examples of docs/ pass the checks of a copy of this repository.

Only the files that they name are written: no list of selectors, features or layers knows them.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import DOCS, HOUSE, files_of

from xmas.data import readers, writers

pytest.importorskip("grimp", reason="import-linter is in the extra `dev`")

COPIED = ("xmas", "conf", "tests", "hydra_plugins", "pyproject.toml")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("repository")
    for name in COPIED:
        copier = shutil.copytree if (HOUSE / name).is_dir() else shutil.copy2
        copier(HOUSE / name, place / name)  # with times, so that its bytecode is valid
    for page in DOCS.glob("add-a-*.md"):
        for file, text in files_of(page).items():
            (place / file).write_text(text, encoding="utf-8")
    return place


def run(copy: Path, *command: str) -> str:
    """Run in the copy, whose package is imported instead of this one; gives what it prints."""
    environment = os.environ | {"PYTHONPATH": str(copy)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    ended = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_imports_still_run_one_way(copy):
    tool = Path(sys.executable).with_name("lint-imports")
    assert "1 kept, 0 broken" in run(copy, str(tool), "--no-cache")


@pytest.fixture(scope="module")
def printed(copy, server) -> str:
    """By one process that runs the tests which what was added must pass, and imports it."""
    ended = server.script(Path(__file__).parent / "added.py", cwd=copy)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_all_are_found_where_they_belong(copy, printed):
    """Selector, feature, benchmark, family, reader, writer, targets: none is named in a list."""
    lines = printed.splitlines()
    names = [sorted([*readers.names(), "lines"]), sorted([*writers.names(), "pairs"])]
    assert lines[-2] == f"{copy / 'conf'} {names[0]} {names[1]} True"
    assert lines[-1] == "['gqa', 'spotted'] colours"


def test_configurations_bind_and_the_contract_of_selectors_holds(printed):
    passed = re.search(r"(\d+) passed", printed)
    assert passed is not None
    assert int(passed[1]) >= 12
