"""Imports run one way, as pyproject's contract says, and the contract leaves no module out."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

grimp = pytest.importorskip("grimp", reason="import-linter is in the extra `dev`")

ROOT = Path(__file__).parent.parent
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]
LAYERS = [
    [module.strip() for module in layer.replace("|", ":").split(":")]
    for layer in CONTRACTS[0]["layers"]
]  # the highest first

# Below every layer that imports them; they import nothing above what is said here.
LOOSE = {
    "xmas.config": {"xmas"},
    "xmas.bench": {"xmas.progress", "xmas.store"},
    "xmas.select": {"xmas.pool", "xmas.store"},
}


@pytest.fixture(scope="module")
def graph() -> "grimp.ImportGraph":
    return grimp.build_graph("xmas", cache_dir=None)


def lint(folder: Path) -> subprocess.CompletedProcess:
    tool = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [tool, "--no-cache", "--config", folder / "pyproject.toml"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_imports_run_one_way():
    ended = lint(ROOT)
    assert ended.returncode == 0, ended.stdout
    assert "1 kept, 0 broken" in ended.stdout


def test_the_contract_can_be_broken(tmp_path):
    """The same layers upside down: otherwise a contract without layers would pass as well."""
    text = (ROOT / "pyproject.toml").read_text()
    first, last = f'"{CONTRACTS[0]["layers"][0]}"', f'"{CONTRACTS[0]["layers"][-1]}"'
    swapped = text.replace(first, "@").replace(last, first).replace("@", last)
    (tmp_path / "pyproject.toml").write_text(swapped)
    ended = lint(tmp_path)
    assert ended.returncode == 1
    assert "0 kept, 1 broken" in ended.stdout


def test_every_module_stands_in_a_layer(graph):
    named = {module for layer in LAYERS for module in layer}
    assert named <= graph.modules
    assert len(named) > 20
    outside = {
        module
        for module in graph.modules - {"xmas"}
        if not any(module == name or module.startswith(f"{name}.") for name in named)
    }
    assert {
        module for module in outside if not {module, module.rpartition(".")[0]} & set(LOOSE)
    } == set()


@pytest.mark.parametrize("loose", LOOSE)
def test_what_stands_in_no_layer_imports_little(graph, loose):
    named = {module for layer in LAYERS for module in layer}
    own = {loose} | {
        module for module in graph.modules if module.startswith(f"{loose}.") and module not in named
    }
    imported = {
        found for module in own for found in graph.find_modules_directly_imported_by(module)
    } - own
    assert imported <= LOOSE[loose] | {"xmas"}, imported
