"""`force=KIND`: a result is computed anew once a command, and the former is there until then."""

import dataclasses
import json
import os
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from xmas.cli.command import renew
from xmas.cli.config import ConfigError
from xmas.store import Stage, Store, atomic, force, key, volatile
from xmas.store.provenance import finished


@dataclasses.dataclass(frozen=True)
class Leaf(Stage):
    """Writes the number of its computation; fails or dies where it is told to."""

    kind: ClassVar[str] = "leaf"

    calls: str = volatile()
    name: str = "a"
    fails: bool = volatile(False)

    def compute(self, store: Store, out: Path) -> None:
        if self.fails:
            raise OSError("disk full")
        with open(self.calls, "a") as calls:
            calls.write(f"{self.kind}\n")
        (out / "number.txt").write_text(str(len(Path(self.calls).read_text().splitlines())))


@dataclasses.dataclass(frozen=True)
class Branch(Stage):
    kind: ClassVar[str] = "branch"

    calls: str = volatile()
    leaf: Leaf | None = None

    def compute(self, store: Store, out: Path) -> None:
        with open(self.calls, "a") as calls:
            calls.write(f"{self.kind}\n")
        if self.leaf is not None:
            store.get(self.leaf)


@pytest.fixture(autouse=True)
def no_command(monkeypatch):
    """What the command sets when it starts is not there, and not afterwards."""
    monkeypatch.setenv("XMAS_STARTED", "0")
    monkeypatch.delenv("XMAS_STARTED")


@pytest.fixture
def leaf(tmp_path: Path) -> Leaf:
    return Leaf(str(tmp_path / "calls"))


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def computed(stage: Any) -> list[str]:
    return Path(stage.calls).read_text().split()


def number(store: Store, leaf: Leaf) -> str:
    return (store.get(leaf) / "number.txt").read_text()


def test_a_result_is_computed_anew_once_and_has_the_same_key(root, leaf):
    before = Store(root).get(leaf)
    forced = Store(root, force="leaf")
    assert number(forced, leaf) == "2"
    assert forced.get(leaf) == before
    assert number(forced, leaf) == "2"
    assert number(Store(root), leaf) == "2"
    assert json.loads((before / "meta.json").read_text())["key"] == key(leaf)
    assert [path.name for path in before.parent.glob(".*") if path.is_dir()] == []


def test_other_kinds_are_reused_and_a_list_names_several(root, leaf):
    branch = Branch(leaf.calls, leaf)
    Store(root).get(branch)
    assert computed(leaf) == ["branch", "leaf"]
    Store(root, force=["branch"]).get(branch)
    assert computed(leaf) == ["branch", "leaf", "branch"]
    Store(root, force=["branch", "leaf"]).get(branch)
    assert computed(leaf) == ["branch", "leaf", "branch", "branch", "leaf"]


def test_what_a_result_was_made_from_is_computed_anew_too_where_the_goal_is_there(root, leaf):
    branch = Branch(leaf.calls, leaf)
    Store(root).get(branch)
    forced = Store(root, force="leaf")
    forced.get(branch)
    assert computed(leaf) == ["branch", "leaf"]  # the branch is there and asks for nothing
    renew(branch, forced)
    assert computed(leaf) == ["branch", "leaf", "leaf"]


def test_what_is_not_there_yet_is_computed_once(root, leaf):
    branch, forced = Branch(leaf.calls, leaf), Store(root, force=["leaf", "branch"])
    renew(branch, forced)
    forced.get(branch)
    assert computed(leaf) == ["branch", "leaf"]


def test_the_stores_of_one_command_compute_anew_once(root, leaf):
    Store(root).get(leaf)
    force.start_command()
    assert [number(Store(root, force="leaf"), leaf) for _job in range(3)] == ["2", "2", "2"]
    force.start_command()  # in a job's process: the command's time stays
    assert number(Store(root, force="leaf"), leaf) == "2"


def test_the_former_result_stays_when_the_computation_fails(root, leaf):
    Store(root).get(leaf)
    forced = Store(root, force="leaf")
    with pytest.raises(OSError, match="disk full"):
        forced.get(dataclasses.replace(leaf, fails=True))
    assert number(Store(root), leaf) == "1"
    assert number(forced, leaf) == "2"


@pytest.mark.parametrize("moment", ["aside", "in place"])
def test_a_process_killed_while_it_replaces_a_result_loses_none(root, leaf, monkeypatch, moment):
    before = Store(root).get(leaf)
    child = os.fork()
    if child == 0:
        replace = Path.replace

        def dies(path: Path, *target: Any) -> Any:
            if path.is_dir():
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(path, *target)

        if moment == "aside":
            monkeypatch.setattr(Path, "replace", dies)  # the former is aside, the new one is not in
        else:
            monkeypatch.setattr(atomic.shutil, "rmtree", dies)  # the former is to be removed
        Store(root, force="leaf").get(leaf)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert before.exists() == (moment != "aside")
    assert number(Store(root), leaf) == "2"
    left = [path for path in before.parent.iterdir() if path.is_dir()]
    assert {path.name for path in left} <= {before.name, f".{before.name}.former"}
    assert number(Store(root, force="leaf"), leaf) == "3"
    assert not atomic.former_of(before).exists()


def test_a_kind_that_is_not_needed_is_refused_with_the_nearest(root, leaf):
    with pytest.raises(
        ConfigError,
        match=r"force=leave: goal=branch needs no result of that kind; did you mean leaf\? "
        "It needs branch, leaf",
    ):
        renew(Branch(leaf.calls, leaf), Store(root, force=["leaf", "leave"]))
    with pytest.raises(ConfigError, match=r"needs no result of that kind\. It needs leaf$"):
        renew(leaf, Store(root, force="qqqq"))
    with pytest.raises(ConfigError, match=r"that kind; did you mean branch\? It needs leaf$"):
        renew(leaf, Store(root, force="brench"))  # a kind, though none that this goal needs
    with pytest.raises(ConfigError, match=r"force=leaf: goal=object computes no results"):
        renew(object(), Store(root, force="leaf"))


def test_when_a_result_was_finished_is_in_its_record_and_else_the_files_time(root, leaf):
    start = time.time()
    folder = Store(root).get(leaf)
    assert start <= finished(folder) <= time.time()
    os.utime(folder / "meta.json", (1, 1))
    assert finished(folder) >= start
    (folder / "meta.json").write_text("{}")
    os.utime(folder / "meta.json", (7, 7))
    assert finished(folder) == 7
