"""A full disk: the file is named, nothing half-written counts, the same command continues."""

import dataclasses
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from xmas.store import Stage, Store, volatile, write_atomically
from xmas.store import full_disk as module
from xmas.training.fit.callbacks import StateFile

FULL = Path("/dev/full")  # every write fails as on a full disk
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")


@dataclasses.dataclass(frozen=True)
class Writer(Stage):
    kind: ClassVar[str] = "writer"

    write: Callable[[Path], Any] = volatile(lambda out: (out / "values.bin").write_bytes(b"ab"))

    def compute(self, store: Store, out: Path) -> None:
        (out / "first.txt").write_text("first")
        self.write(out)


def onto_full_disk(out: Path) -> None:
    (out / "values.bin").symlink_to(FULL)
    try:
        with (out / "values.bin").open("wb") as file:
            file.write(b"ab")
            file.flush()
    finally:
        (out / "values.bin").unlink()
        (out / "values.bin").write_bytes(b"a")


def test_the_file_and_the_free_bytes_are_named_and_the_same_command_continues(tmp_path):
    store = Store(str(tmp_path / "store"))
    draft = store.path(Writer()).with_name(f".{store.path(Writer()).name}")
    with pytest.raises(
        OSError,
        match=r"disk is full: 1 bytes of this file .* [\d,]+ are free; .*again.*values\.bin'",
    ) as caught:
        store.get(Writer(onto_full_disk))
    assert caught.value.errno == errno.ENOSPC
    assert (draft / "first.txt").exists()
    assert "No space left" in (draft / "error.txt").read_text()
    assert (store.get(Writer()) / "values.bin").read_bytes() == b"ab"
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("numbers", [1, 30_011])  # an error of the last bytes, and of the first
def test_a_checkpoint_onto_a_full_disk_says_so(tmp_path, numbers):
    def save(out: Path) -> None:
        StateFile().save_checkpoint({"state_dict": {"a": torch.zeros(numbers)}}, FULL)

    with pytest.raises(OSError, match=r"disk is full: .*, and run the same command again"):
        Store(str(tmp_path)).get(Writer(save))


def test_an_error_that_is_its_own_cause_is_no_endless_chain(tmp_path):
    error = ValueError("an image is too large")
    error.__cause__ = error
    assert module.full_disk(error, tmp_path) is None


@pytest.mark.parametrize("error", [OSError("4000 requested and 512 written"), RuntimeError("zip")])
def test_errors_of_libraries_without_a_number_count_where_nothing_is_free(
    tmp_path, monkeypatch, error
):
    def fail(out: Path) -> None:
        raise error

    store = Store(str(tmp_path))
    with pytest.raises(type(error), match=str(error)):
        store.get(Writer(fail))
    monkeypatch.setattr(module, "_free", lambda place: 4096)
    with pytest.raises(OSError, match=r"disk is full: 5 bytes .* 4,096 are free.*first\.txt"):
        store.get(Writer(fail))


def test_a_file_that_is_written_next_to_is_named_and_removed(tmp_path):
    path = tmp_path / "table.md"
    path.write_text("former")

    def write(partial: Path) -> None:
        partial.write_text("half")
        with FULL.open("w") as file:
            file.write("x")

    with pytest.raises(OSError, match=r"disk is full: 4 bytes of this file .*/table\.md'"):
        write_atomically(path, write)
    assert [file.name for file in tmp_path.iterdir()] == ["table.md"]
    assert path.read_text() == "former"


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_a_file_or_folder_whose_writing_fails(tmp_path, kind):
    def write_file(partial: Path) -> None:
        partial.write_text("half")
        raise kind("stopped")

    def write_folder(partial: Path) -> None:
        partial.mkdir()
        np.save(partial / "a.npy", np.zeros(3))
        raise kind("stopped")

    for write in (write_file, write_folder):
        with pytest.raises(kind, match="stopped"):
            write_atomically(tmp_path / "model", write)
        assert list(tmp_path.iterdir()) == []
