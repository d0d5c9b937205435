"""Clocks that differ between hosts, and files with times in the future or before 1970."""

import dataclasses
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pytest

from xmas.results.clean import Clean
from xmas.results.inventory import Inventory
from xmas.store import Stage, Store, content
from xmas.store.integrity import sealed

AHEAD = 3600.0  # seconds


@dataclasses.dataclass(frozen=True)
class Length(Stage):
    kind: ClassVar[str] = "length"

    source: str = content()

    def compute(self, store: Store, out: Path) -> None:
        (out / "length.txt").write_text(str(Path(self.source).stat().st_size))
        (out / "made.txt").write_text(str(time.monotonic_ns()))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "pool.json"
    path.write_text("[]")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def test_a_result_of_a_host_whose_clock_is_ahead_is_still_computed_anew_on_request(store, source):
    folder = store.get(Length(str(source)))
    meta = json.loads((folder / "meta.json").read_text())
    ahead = datetime.fromtimestamp(time.time() + AHEAD, UTC).isoformat()
    (folder / "meta.json").write_text(sealed(meta | {"finished": ahead}))
    before = (folder / "made.txt").read_text()
    store.get(Length(str(source)))
    assert (folder / "made.txt").read_text() == before
    forced = dataclasses.replace(store, force="length", since=time.time())
    forced.get(Length(str(source)))
    renewed = (folder / "made.txt").read_text()
    assert renewed != before
    forced.get(Length(str(source)))
    assert (folder / "made.txt").read_text() == renewed  # once


@pytest.mark.parametrize("modified", [-5.0, time.time() + AHEAD], ids=["before 1970", "ahead"])
def test_times_of_files_change_no_result_and_no_list(store, source, modified):
    first = store.get(Length(str(source)))
    for path in (source, *first.iterdir(), first):
        os.utime(path, (modified, modified))
    assert store.get(Length(str(source))) == first
    source.write_text("[ ]")
    os.utime(source, (modified, modified))
    assert store.get(Length(str(source))) != first
    (store.path(Length(str(source))).with_name(".0123456789ab")).mkdir()
    os.utime(store.path(Length(str(source))).with_name(".0123456789ab"), (modified, modified))
    assert "2 results" in Inventory().make(store)
    assert Clean(keep=[], days=0.0).make(store)
