"""The README's code blocks run: its commands compose, its Python gives what it says."""

import contextlib
import json
import re
import shlex
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from toy import OVERRIDES, ROWS, Toy

import xmas.selection.methods
from xmas.cli.command import Page
from xmas.cli.config import build, check_choices, folder, goal_node
from xmas.store import Stage

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(README.read_text()) if found == language]


def commands() -> list[list[str]]:
    """The arguments of every `xmas` in a block or a line of the README."""
    text = README.read_text()
    lines = [line for block in blocks("") for line in block.splitlines()]
    lines += re.findall(r"`(xmas [^`]*)`", text)
    told = [line for line in lines if re.match(r"xmas(\s|$)", line)]
    return [shlex.split(line, comments=True)[1:] for line in told]


@contextlib.contextmanager
def shortest(place: Path) -> Iterator[None]:
    """The selector of "Add a selector" as a module and a YAML in `place`."""
    (python,) = (block for block in blocks("python") if "class Shortest" in block)
    (yaml,) = blocks("yaml")
    (place / "shortest.py").write_text(python)
    (place / "selector").mkdir()
    (place / "selector" / "shortest.yaml").write_text(yaml)
    xmas.selection.methods.__path__.append(str(place))
    try:
        yield
    finally:
        xmas.selection.methods.__path__.remove(str(place))


def test_all_commands_are_found():
    found = commands()
    assert len(found) >= 9
    assert any("-m" in arguments for arguments in found)


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_every_command_composes(arguments, tmp_path):
    if arguments == ["--help"]:  # test_config runs it
        return
    told = " ".join(arguments).replace("--config-dir DIR", "").split()  # DIR is tmp_path here
    given = [each.split("=", 1) for each in told if each != "-m"]
    searched = [f"hydra.searchpath=[file://{tmp_path}]"]
    with shortest(tmp_path), initialize_config_dir(folder(), version_base="1.3"):
        check_choices(["--config-dir", str(tmp_path), *map("=".join, given)])
        ends = (  # the first and the last of the values that a sweep lists
            tuple(f"{name}={values.split(',')[place]}" for name, values in given)
            for place in (0, -1)
        )
        for one in dict.fromkeys(ends):
            goal = build(goal_node(compose("config", overrides=[*one, *searched])))
            assert isinstance(goal, Stage | Page)


def test_the_python_gives_a_folder_with_a_subset(toy: Toy, tmp_path, monkeypatch):
    (python,) = (block for block in blocks("python") if "from xmas import" in block)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mix.json").symlink_to(toy.folder / "pool.json")
    (tmp_path / "images").symlink_to(toy.folder / "images")
    ran = types.ModuleType("ran")
    exec(compile(python, "README.md", "exec"), vars(ran))
    assert len(json.loads((ran.folder / "rows.json").read_text())) == ROWS // 5


def test_the_selector_of_the_readme_ranks(toy: Toy, tmp_path):
    with shortest(tmp_path), initialize_config_dir(folder(), version_base="1.3"):
        cfg = compose(
            "config",
            overrides=[
                *OVERRIDES,
                f"pool.annotations={toy.folder / 'pool.json'}",
                f"pool.images={toy.folder / 'images'}",
                "selector=shortest",
                f"hydra.searchpath=[file://{tmp_path}]",
            ],
        )
        ranking = build(cfg.ranking)
        found = ranking.selector.rank(ranking.pool, np.random.default_rng(0), toy.store)
    lengths = ranking.selector.proxy.tokens().open(toy.store).text_lengths
    assert sorted(found.order) == list(range(ROWS))
    assert (np.diff(lengths[found.order]) >= 0).all()
