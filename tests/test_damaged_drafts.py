"""Unfinished work that is not what was written is named, moved aside, and done again."""

import errno
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from xmas.attention.shards import Shards
from xmas.store import arrays, distributed
from xmas.store.arrays import ArrayInParts, new_array, reserve
from xmas.store.atomic import former_of
from xmas.store.checkpoint import save_checkpoint, saved_state
from xmas.store.computation import Computation
from xmas.store.lines import appending, keep_whole_lines, whole_lines

PARTS = [slice(0, 3), np.array([6, 3]), slice(4, 6)]


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def state(text: str):
    return lambda path: path.write_text(text)


def read(draft: Path) -> str | None:
    saved = saved_state(draft)
    return None if saved is None else saved.read_text()


@pytest.mark.parametrize("at", range(11))
def test_a_flipped_bit_of_a_checkpoint_is_found(tmp_path, caplog, at):
    save_checkpoint(tmp_path, state("step 12 etc"))
    assert read(tmp_path) == "step 12 etc"
    flip(tmp_path / "last.ckpt" / "state.ckpt", at)
    assert read(tmp_path) is None
    assert f"{tmp_path}/last.ckpt: state.ckpt has sha256 " in caplog.text
    assert "moved to .last.ckpt.damaged, the work starts anew" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [".last.ckpt.damaged"]
    save_checkpoint(tmp_path, state("step 1"))
    assert read(tmp_path) == "step 1"


def test_a_checkpoint_that_lacks_something_gives_way_to_the_former(tmp_path, caplog):
    last = tmp_path / "last.ckpt"
    for number, fault in enumerate(("is missing", "cannot be read", "earlier version", "lists no")):
        save_checkpoint(tmp_path, state("former"))
        last.rename(former_of(last))
        last.mkdir()
        (last / "state.ckpt").write_text("last")
        (last / "sha256.json").write_text("{}" if number == 3 else '{"state.ckpt": "0"}')
        if number == 0:
            (last / "state.ckpt").unlink()
        elif number == 1:
            (last / "sha256.json").write_text("")
        elif number == 2:
            (last / "sha256.json").unlink()
        caplog.clear()
        assert read(tmp_path) == "former"
        assert fault in caplog.text
        assert "the former checkpoint is tried" in caplog.text


def test_a_checkpoint_of_an_earlier_version_is_a_file_and_moved_aside(tmp_path, caplog):
    (tmp_path / "last.ckpt").write_bytes(b"torch")
    assert read(tmp_path) is None
    assert "last.ckpt: no sha256.json, as of an earlier version; moved to" in caplog.text


def filled(path: Path, done: int) -> ArrayInParts:
    """An array whose missing parts before `done` are filled."""
    array = ArrayInParts(path, np.float16, (7, 2), PARTS)
    for number in array.todo:
        if number < done:
            rows = {0: 3, 1: 2, 2: 2}[number]
            array.write(number, np.full((rows, 2), number + 1, dtype=np.float32))
    return array


def part_file(path: Path, number: int) -> Path:
    (place,) = path.with_suffix(".parts").glob(f"{number}-*.npz")
    return place


def test_an_array_in_parts_continues_with_the_missing_ones(tmp_path):
    path = tmp_path / "values.npy"
    filled(path, 1)
    assert filled(path, 2).todo == [1, 2]
    assert not path.exists()
    array = ArrayInParts(path, np.float16, (7, 2), PARTS)
    assert array.todo == [2]
    assert array.rows(array.todo) == 2
    filled(path, 3).finish()
    expected = np.array([1, 1, 1, 2, 3, 3, 2], dtype=np.float16)
    assert np.load(path)[:, 0].tolist() == expected.tolist()
    path.with_suffix(".parts").mkdir()  # the power failed before the parts were removed
    again = ArrayInParts(path, np.float16, (7, 2), PARTS)
    assert again.todo == []
    again.finish()
    assert np.load(path)[:, 1].tolist() == expected.tolist()
    assert {file.name for file in tmp_path.iterdir()} == {"values.npy", "values.ckpt"}


def test_ranks_share_the_parts_and_any_number_of_them_continues(tmp_path, monkeypatch):
    path = tmp_path / "values.npy"
    todo = []
    for rank, world in ((0, 2), (1, 2), (2, 3)):
        monkeypatch.setattr(distributed, "rank_and_world", lambda of=(rank, world): of)
        todo.append(ArrayInParts(path, np.float16, (7, 2), PARTS).todo)
        if (rank, world) == (1, 2):
            filled(path, 3)  # this rank ends; the other one is killed before its first part
    assert todo == [[0, 2], [1], [2]]
    monkeypatch.undo()
    array = filled(path, 3)
    assert array.todo == [0, 2]
    array.finish()
    assert np.load(path)[:, 0].tolist() == [1, 1, 1, 2, 3, 3, 2]


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda place: flip(place, place.stat().st_size // 2), "is not what was written"),
        (lambda place: place.write_bytes(b""), "cannot be read ("),
        (lambda place: os.truncate(place, 132), "cannot be read ("),
        (lambda place: new_array(place, np.int8, (3,)), "cannot be read ("),
    ],
)
def test_a_damaged_part_is_moved_aside_and_filled_anew(tmp_path, caplog, damage, fault):
    path = tmp_path / "values.npy"
    filled(path, 2)
    place = part_file(path, 1)
    damage(place)
    assert ArrayInParts(path, np.float16, (7, 2), PARTS).todo == [1, 2]
    assert f"{place}: {fault}" in caplog.text
    assert f"moved to .{place.name}.damaged, filled anew" in caplog.text
    filled(path, 3).finish()
    assert np.load(path)[:, 0].tolist() == [1, 1, 1, 2, 3, 3, 2]


def test_a_part_that_is_damaged_while_others_are_filled_is_named(tmp_path):
    path = tmp_path / "values.npy"
    array = filled(path, 3)
    place = part_file(path, 1)
    flip(place, place.stat().st_size // 2)
    with pytest.raises(OSError, match=r"1-\w+\.npz: .*; run the same command again"):
        array.finish()
    filled(path, 3).finish()
    assert np.load(path)[:, 0].tolist() == [1, 1, 1, 2, 3, 3, 2]


def test_parts_of_other_rows_or_of_another_shape_do_not_count(tmp_path):
    path = tmp_path / "values.npy"
    filled(path, 3)
    halves = [slice(0, 4), slice(4, 7)]
    assert ArrayInParts(path, np.float16, (7, 2), halves).todo == [0, 1]
    with pytest.raises(ValueError, match=r"part 0 has shape \(3, 1\), not \(3, 2\)"):
        ArrayInParts(path, np.float16, (7, 2), PARTS).write(0, np.zeros((3, 1)))


def test_an_array_of_an_earlier_version_counts_as_not_filled(tmp_path):
    path = tmp_path / "values.npy"
    np.save(path, np.ones((7, 2), dtype=np.float16))
    (tmp_path / "batches.txt").write_text("2")
    assert filled(path, 3).todo == [0, 1, 2]
    filled(path, 3).finish()
    assert np.load(path)[:, 0].tolist() == [1, 1, 1, 2, 3, 3, 2]


def test_a_full_disk_is_an_error_with_file_needed_and_free_bytes(tmp_path, monkeypatch):
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    path = tmp_path / "values.npy"
    with pytest.raises(
        OSError, match=r"the disk is full: 6,128 bytes are needed, [\d,]+ are free; .*values\.npy"
    ) as error:
        new_array(path, np.float32, (3, 500))
    assert error.value.errno == errno.ENOSPC
    assert not path.exists()


def test_space_is_reserved_also_where_the_file_system_cannot(tmp_path, monkeypatch):
    def absent(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(arrays, "_BLOCK", 1000)
    path = tmp_path / "values.npy"
    for with_fallocate in (True, False):
        if not with_fallocate:
            monkeypatch.setattr(os, "posix_fallocate", absent)
        new_array(path, np.float64, (70_000,))
        assert path.stat().st_blocks * 512 >= 560_128
        assert (np.load(path) == np.zeros(70_000)).all()
    path.write_bytes(b"content")
    with path.open("r+b") as file:
        reserve(file, 2500, path)
    assert path.read_bytes() == b"content" + bytes(2493)


def test_lines_that_are_not_what_was_written_are_left_out(tmp_path, caplog):
    path = tmp_path / "answers.partial"
    records = [{"position": number, "text": f"é{number}"} for number in range(5)]
    for some in (records[:2], records[2:]):
        with appending(path, seconds=0) as append:
            for record in some:
                append(record)
    assert list(whole_lines(path).values()) == records
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"1", b"7", 1)  # valid JSON
    lines[3] = bytes(len(lines[3]) - 1) + b"\n"
    path.write_bytes(b"".join(lines) + b'{"position": 5, "te')
    whole = {1: records[0], 3: records[2], 5: records[4]}
    assert whole_lines(path) == whole
    assert f"{path}: line 2, 4 are not what was written; their work is done again" in caplog.text
    assert keep_whole_lines(path) == list(whole.values())
    assert path.read_bytes() == lines[0] + lines[2] + lines[4]
    caplog.clear()
    with appending(path, seconds=60) as append:
        append(records[1])
    assert keep_whole_lines(path) == [*whole.values(), records[1]]
    assert not caplog.records


def test_lines_of_an_earlier_version_have_no_checksum(tmp_path):
    path = tmp_path / "reviews.partial"
    assert keep_whole_lines(path) == []
    path.write_text('{"run": 1}\n{"run": 2}\n')
    assert keep_whole_lines(path) == [{"run": 1}, {"run": 2}]


def test_shards_that_are_not_what_was_written_are_measured_again(tmp_path, caplog):
    shards = Shards(tmp_path / "shards", np.array([0, 2, 5]), (4, 8), 3)
    one, two = np.ones((2, 2, 3), np.float32), np.full((3, 2, 3), 2, np.float32)
    shards.write(0, (4, 8), one)
    shards.write(1, (4, 8), two)
    moved = tmp_path / "again"  # what another process finds
    shards.folder.rename(moved)
    values = moved / "0" / "values.npy"
    flip(values, -1)  # of the last step of shard 1
    again = Shards(moved, shards.bounds, shards.steps, 3)
    assert again.done().tolist() == [[True, True], [True, False]]
    assert f"{values}: shard 1 at step 8 is not what was written; it is measured" in caplog.text
    again.write(1, [8], two[:, 1:])
    assert again.column(8)[:, 0].tolist() == [1, 1, 2, 2, 2]
    os.truncate(values, 150)
    assert not again.done().any()
    assert f"{moved / '0'}: cannot be read (" in caplog.text
    assert "moved to .0.damaged, its shards are measured again" in caplog.text


def test_records_of_attempts_that_cannot_be_read_are_named(tmp_path, caplog):
    (tmp_path / "attempts.json").write_bytes(b"\0" * 40)
    computation = Computation("text/0123", tmp_path)
    computation.resume()
    assert computation.inputs is None
    assert f"{tmp_path}/attempts.json cannot be read" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
