"""A store that cannot be written: what is finished is used and shown, nothing is written there."""

import dataclasses
import json
import logging
import tempfile
from pathlib import Path
from typing import ClassVar

import pytest
from read_only import make_read_only
from scored import Shelves

from xmas.cli.command import make, note
from xmas.cli.sweep.job import log_folder
from xmas.results.inventory import Inventory
from xmas.results.report import Report
from xmas.results.score_records import remember
from xmas.results.table import Table
from xmas.results.verify import Verify
from xmas.store import Stage, Store, key
from xmas.store.lock import alone, is_held


@dataclasses.dataclass(frozen=True)
class Word(Stage):
    kind: ClassVar[str] = "word"

    word: str = "plum"

    def compute(self, store: Store, out: Path) -> None:
        (out / "word.txt").write_text(self.word)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A word that is finished, a draft with its lock, and scores."""
    store = Store(str(tmp_path / "store"))
    store.get(Word())
    draft = store.path(Word("fig")).with_name(f".{key(Word('fig'))}")
    draft.mkdir()
    with alone(draft, waiting=lambda: None):
        pass
    put = Shelves(Path(store.root))
    for selector, score in (("full", 60.0), ("random", 50.0), ("xmas", 55.0)):
        put(selector, "gqa", score)
    return store


@pytest.fixture
def read_only(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The same, read-only, with a working directory next to it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    make_read_only(Path(store.root), monkeypatch)
    return store


def listing(store: Store) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in Path(store.root).rglob("*")}


def test_what_is_finished_is_used_and_shown_and_nothing_is_written(read_only):
    before = listing(read_only)
    with pytest.raises(OSError, match="Read-only file system"):
        (Path(read_only.root) / "a").write_text("a")
    assert make(Word(), read_only) == str(read_only.path(Word()))
    assert "word" in make(Inventory(), read_only)
    assert "checked 1 files" in make(Verify(kind="word"), read_only)
    assert "| xmas" in make(Table(), read_only)
    assert Report().files(read_only) == [Path.cwd() / "report.html"]
    assert {path.name for path in Path.cwd().iterdir()} == {
        *("table.md", "table.csv", "table.tex"),
    }
    assert listing(read_only) == before


def test_what_is_not_finished_says_where_it_can_be_computed(read_only):
    with pytest.raises(
        PermissionError, match=rf"cannot be written, .* {key(Word('pear'))}.*store\.root="
    ):
        read_only.get(Word("pear"))
    assert not read_only.path(Word("pear")).exists()


def test_which_experiment_asked_is_noted_before_or_not_at_all(store, tmp_path, monkeypatch, caplog):
    remember(store, "mine", ["a", "b"])
    make_read_only(Path(store.root), monkeypatch)
    remember(store, "mine", ["a", "b"])
    assert caplog.messages == []
    with caplog.at_level(logging.WARNING, logger="xmas"):
        remember(store, "mine", ["a", "c"])
    (line,) = caplog.messages
    assert f"{store.root} is read-only" in line
    assert "table.experiment=mine" in line
    note(Word(), store, "mine")


def test_a_job_of_a_sweep_has_its_log_elsewhere(store, monkeypatch):
    assert log_folder(store.root) == Path(store.root) / "logs"
    make_read_only(Path(store.root), monkeypatch)
    assert log_folder(store.root) == Path(tempfile.gettempdir()) / "xmas-logs"


def test_whether_a_process_computes_is_found_out_without_taking_its_lock(store, monkeypatch):
    draft = store.path(Word("fig")).with_name(f".{key(Word('fig'))}")
    with alone(draft, waiting=lambda: None), monkeypatch.context() as patch:
        make_read_only(Path(store.root), patch)
        assert is_held(draft)
    make_read_only(Path(store.root), monkeypatch)
    assert not is_held(draft)


def test_the_message_of_a_waiting_process_names_host_and_process(store, caplog):
    from xmas.store.computation import Computation

    draft = store.path(Word("fig")).with_name(f".{key(Word('fig'))}")
    assert Computation.process(draft) == "it has just begun"
    (draft / "attempts.json").write_text(
        json.dumps({"seconds": 1.0, "inputs": [], "host": "gpu07", "pid": 4711})
    )
    assert Computation.process(draft) == "process 4711 on host gpu07"
