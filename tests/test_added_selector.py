"""The documentation's selector, put where it says, passes the checks of a copy of this repository.

Nothing but its two files is written: no list of selectors, layers or names has to know it.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("grimp", reason="import-linter is in the extra `dev`")

ROOT = Path(__file__).parent.parent
COPIED = ("xmas", "conf", "tests", "hydra_plugins", "pyproject.toml")


def documented(language: str, marker: str) -> str:
    """The code block with `marker`, of the README or of a page in docs/."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    blocks = [
        text
        for page in pages
        for text in re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
        if marker in text
    ]
    (text,) = blocks
    return text


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("repository")
    for name in COPIED:
        copier = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        options = {"ignore": shutil.ignore_patterns("__pycache__")} if copier != shutil.copy else {}
        copier(ROOT / name, place / name, **options)
    module = place / "xmas/selection/methods/shortest.py"
    module.write_text(documented("python", "class Shortest"))
    yaml = place / "conf/selector/shortest.yaml"
    yaml.write_text(documented("yaml", "shortest.Shortest"))
    return place


def run(copy: Path, *command: str) -> str:
    """Run in the copy, whose package is imported instead of this one; gives what it prints."""
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    ended = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_imports_still_run_one_way(copy):
    tool = Path(sys.executable).with_name("lint-imports")
    assert "1 kept, 0 broken" in run(copy, str(tool), "--no-cache")


def test_the_contract_of_selectors_holds(copy):
    """Without the type checks of every call, which double the seconds of a new process."""
    options = ("-q", "-p", "no:cacheprovider", "-o", "addopts=", "-k", "shortest")
    report = run(copy, sys.executable, "-m", "pytest", *options, "tests/test_selectors.py")
    passed = re.search(r"(\d+) passed", report)
    assert passed is not None
    assert int(passed[1]) >= 12
