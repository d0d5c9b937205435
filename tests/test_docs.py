"""README and docs: commands compose, examples run, tables and listings say what is there."""

import contextlib
import json
import re
import shlex
import sys
import types
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from toy import ROWS, Toy

from xmas.cli.command import Page
from xmas.cli.config import build, check_choices, folder, goal_node
from xmas.store import Stage

HOUSE = Path(__file__).parent.parent
README = HOUSE / "README.md"
PAGES = (README, HOUSE / "CONTRIBUTING.md", *sorted((HOUSE / "docs").glob("*.md")))
BLOCK = re.compile(r"(?:^`([^`\n]+)`:\n\n)?^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)\)")


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """(file named on the line above or "", language, text) of every block of a page."""
    for file, indent, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        yield file, language, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)


def commands(page: Path) -> list[tuple[str, ...]]:
    """The arguments of every `xmas` in the blocks and lines of a page, and of its tables' options.

    After torchrun's `-m` as well.
    """
    prose = page.read_text(encoding="utf-8")
    lines = [
        line
        for _, language, text in blocks(page)
        if not language
        for line in text.replace("\\\n", " ").splitlines()
    ]
    lines += re.findall(r"`(xmas [^`…]*)`", prose)
    for table in re.findall(r"^\| option \|.*?\n\n", prose, re.MULTILINE | re.DOTALL):
        options = re.findall(r"^\| `(.+?)`", table, re.MULTILINE)
        lines += [f"xmas hardware=one_gpu {option}" for option in options]
    calls = [re.match(r"(?:(?:srun )?torchrun .* -m )?xmas( .*|)$", line) for line in lines]
    return [tuple(shlex.split(call[1], comments=True)) for call in calls if call]


def files_of(page: Path) -> dict[str, str]:
    """The files that a page tells its reader to write, by path from the repository's root."""
    return {file: text for file, _, text in blocks(page) if file}


@contextlib.contextmanager
def written(page: Path, place: Path) -> Iterator[list[str]]:
    """The page's files in `place`, found as if they were in the repository; Hydra's overrides."""
    packages = []
    for file, text in files_of(page).items():
        assert not (HOUSE / file).exists(), f"{page.name} changes {file}, which is there already"
        target = place / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        if target.suffix == ".py":
            packages.append((import_module(".".join(Path(file).parent.parts)), target))
    for package, target in packages:
        package.__path__.append(str(target.parent))
    (place / "conf").mkdir(exist_ok=True)
    try:
        yield [f"hydra.searchpath=[file://{place / 'conf'}]"]
    finally:
        for package, target in packages:
            package.__path__.remove(str(target.parent))
            sys.modules.pop(f"{package.__name__}.{target.stem}", None)
            vars(package).pop(target.stem, None)


@contextlib.contextmanager
def composed(*overrides: str) -> Iterator:
    with initialize_config_dir(folder(), version_base="1.3"):
        yield compose("config", overrides=list(overrides))


COMMANDS = [
    pytest.param(page, command, id=f"{page.stem}: {' '.join(command)}")
    for page in PAGES
    for command in dict.fromkeys(commands(page))
]


def test_all_commands_are_found():
    assert len(COMMANDS) >= 50
    assert sum("hardware=fsdp hardware.nodes=" in str(one.id) for one in COMMANDS) == 1


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_every_command_composes(page, command, tmp_path):
    if "--help" in command:  # test_config runs it
        return
    words = (word.replace("$SLURM_NNODES", "2") for word in command)
    pairs = [word.split("=", 1) for word in words if word not in ("-m", "--config-dir", "DIR")]
    with written(page, tmp_path) as searched:
        check_choices(["--config-dir", str(tmp_path / "conf"), *map("=".join, pairs)])
        ends = (  # the first and the last of the values that a sweep lists
            tuple(
                f"{name}={value if value[0] in '[{' else value.split(',')[end]}"
                for name, value in pairs
            )
            for end in (0, -1)
        )
        for chosen in dict.fromkeys(ends):
            with composed(*chosen, *searched) as cfg:
                assert isinstance(build(goal_node(cfg)), Stage | Page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    links = LINK.findall(page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_every_page_is_linked_from_the_readme():
    links = {README.parent / link for link in LINK.findall(README.read_text(encoding="utf-8"))}
    assert set(PAGES) - {README} <= links


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) < 200


def listed() -> dict[str, str]:
    """The README's folder listing: path and what it says about it."""
    (text,) = (text for _, language, text in blocks(README) if "xmas/\n" in text)
    found, parents = {}, []
    for line in text.splitlines():
        indent, name, about = re.fullmatch(r"( *)(\S+)/ *(.*)", line).groups()
        parents = [*parents[: len(indent) // 2], name]
        found["/".join(parents)] = about
    return found


def folders() -> set[str]:
    """The folders of the repository, and those of `xmas/` down to its packages' packages."""
    top = {
        path.name
        for path in HOUSE.iterdir()
        if path.is_dir() and (path.name == ".ci" or path.name[0] != ".")
    }
    packages = {path.parent.relative_to(HOUSE) for path in (HOUSE / "xmas").rglob("*.py")}
    return top - {"store", "dist", "build"} | {
        package.as_posix() for package in packages if len(package.parts) <= 3
    }


def test_the_folder_listing_is_the_tree():
    found = listed()
    assert set(found) == folders()
    assert all(about or name == "xmas" for name, about in found.items())


@pytest.mark.parametrize(
    ("page", "group"),
    [
        ("README.md", "selector"),
        ("docs/add-a-target.md", "target"),
        ("docs/add-a-target.md", "target/recipe"),
        ("docs/select-from-your-own-pool.md", "proxy"),
        ("docs/benchmarks-and-judges.md", "benchmark"),
        ("docs/benchmarks-and-judges.md", "suite"),
        ("docs/estimate-and-doctor.md", "hardware"),
        ("docs/reproduce-a-published-table.md", "experiment"),
    ],
)
def test_tables_list_every_choice(page, group):
    text = (HOUSE / page).read_text(encoding="utf-8")
    table = text.split(f"| `{group}=`", 1)[1].split("\n\n", 1)[0]
    first_cells = " ".join(line.split("|")[1] for line in table.splitlines()[2:])
    there = {path.stem for path in (HOUSE / "conf" / group).glob("*.yaml")}
    assert set(re.findall(r"`(\w+)`", first_cells)) == there


def run_in(place: Path, toy: Toy, page: Path) -> types.ModuleType:
    """The page's Python blocks without a file of their own, one after the other in `place`."""
    (place / "mix.json").symlink_to(toy.folder / "pool.json")
    (place / "images").symlink_to(toy.folder / "images")
    module = types.ModuleType("ran")
    for file, language, text in blocks(page):
        if language == "python" and not file:
            exec(compile(text, page.name, "exec"), vars(module))
    return module


def test_the_readme_s_python_gives_a_folder_with_a_subset(toy: Toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = run_in(tmp_path, toy, README)
    assert len(json.loads((ran.folder / "rows.json").read_text())) == ROWS // 5


def test_from_python_runs(toy: Toy, tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    from scored import Shelves

    monkeypatch.chdir(tmp_path)
    add = Shelves(tmp_path / "store")
    add("full", "gqa", 60.0)
    for seed, score in enumerate((45.0, 51.0)):
        add("random", "gqa", score, seed=seed)
    ran = run_in(tmp_path, toy, HOUSE / "docs" / "from-python.md")
    assert len(ran.rows) == ROWS // 5
    assert ran.means.to_dict()[("random", 0.2, "gqa")] == 48
    assert ran.table[ran.table.benchmark == "ARP"].relative.to_list() == [100, 80]
