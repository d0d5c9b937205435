"""Imports run one way, as pyproject's contract says, and every room of the house is in it."""

import tomllib
from pathlib import Path

import pytest

pytest.importorskip("grimp", reason="import-linter is in the extra `dev`")

ROOT = Path(__file__).parent.parent
(CONTRACT,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]


@pytest.fixture
def lint(monkeypatch, capsys):
    """A function that gives the exit status of import-linter, and what it prints."""
    from importlinter import cli

    monkeypatch.setattr(cli, "_configure_logging", lambda verbose: None)  # it disables all loggers
    monkeypatch.chdir(ROOT)

    def linted(folder: Path) -> tuple[int, str]:
        status = cli.lint_imports(str(folder / "pyproject.toml"), no_cache=True)
        return status, capsys.readouterr().out

    return linted


def changed(tmp_path: Path, old: str, new: str) -> Path:
    """A copy of pyproject.toml with `old` replaced, which must be there once."""
    text = (ROOT / "pyproject.toml").read_text()
    assert text.count(old) == 1
    (tmp_path / "pyproject.toml").write_text(text.replace(old, new))
    return tmp_path


def test_imports_run_one_way(lint):
    status, output = lint(ROOT)
    assert status == 0, output
    assert "1 kept, 0 broken" in output


def test_the_contract_can_be_broken(lint, tmp_path):
    """With `store` above `data`: otherwise a contract without layers would pass as well."""
    status, output = lint(changed(tmp_path, '  "data",\n  "store",\n', '  "store",\n  "data",\n'))
    assert status == 1
    assert "0 kept, 1 broken" in output


def test_a_room_outside_the_contract_is_noticed(lint, tmp_path):
    status, output = lint(changed(tmp_path, '  "demo",\n', ""))
    assert status == 1
    assert "demo" in output


def test_no_module_stands_loose():
    loose = {path.name for path in (ROOT / "xmas").glob("*.py")}
    assert loose == {"__init__.py", "__main__.py"}
    assert CONTRACT["exhaustive"]
