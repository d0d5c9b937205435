"""Imports run one way, as pyproject's contract says, and every room of the house is in it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("grimp", reason="import-linter is in the extra `dev`")

ROOT = Path(__file__).parent.parent
(CONTRACT,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]


def lint(folder: Path) -> subprocess.CompletedProcess:
    tool = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [tool, "--no-cache", "--config", folder / "pyproject.toml"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


def changed(tmp_path: Path, old: str, new: str) -> Path:
    """A copy of pyproject.toml with `old` replaced, which must be there once."""
    text = (ROOT / "pyproject.toml").read_text()
    assert text.count(old) == 1
    (tmp_path / "pyproject.toml").write_text(text.replace(old, new))
    return tmp_path


def test_imports_run_one_way():
    ended = lint(ROOT)
    assert ended.returncode == 0, ended.stdout
    assert "1 kept, 0 broken" in ended.stdout


def test_the_contract_can_be_broken(tmp_path):
    """With `store` above `data`: otherwise a contract without layers would pass as well."""
    ended = lint(changed(tmp_path, '  "data",\n  "store",\n', '  "store",\n  "data",\n'))
    assert ended.returncode == 1
    assert "0 kept, 1 broken" in ended.stdout


def test_a_room_outside_the_contract_is_noticed(tmp_path):
    ended = lint(changed(tmp_path, '  "demo",\n', ""))
    assert ended.returncode == 1
    assert "demo" in ended.stdout


def test_no_module_stands_loose():
    loose = {path.name for path in (ROOT / "xmas").glob("*.py")}
    assert loose == {"__init__.py", "__main__.py"}
    assert CONTRACT["exhaustive"]
