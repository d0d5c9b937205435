"""A result's files are those that were written; a stage's input files stay while it is computed."""

import dataclasses
import json
import logging
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from damage import DAMAGES, User, flip, trials
from PIL import Image
from scored import Shelves

from xmas.data.images.files import image_size, open_image
from xmas.data.pool import Pool
from xmas.results.score_records import runs
from xmas.results.verify import Verify
from xmas.store import Made, Stage, Store, content, key, sha256_of, volatile
from xmas.store import integrity as module
from xmas.store.index import ResultIndex
from xmas.store.integrity import DamagedResultError, check, record_files, sealed
from xmas.store.stage import ChangedFileError, hashed_files


@dataclasses.dataclass(frozen=True)
class Values(Stage):
    """Two files, one in a folder."""

    kind: ClassVar[str] = "values"

    seed: int = 0

    def compute(self, store: Store, out: Path) -> None:
        (out / "columns").mkdir()
        np.save(out / "values.npy", np.arange(12.0) + self.seed)
        (out / "columns" / "1.json").write_text(json.dumps({"step": 1, "rows": [3, 1, 4]}))


@dataclasses.dataclass(frozen=True)
class Total(Stage):
    """The sum of some values."""

    kind: ClassVar[str] = "total"

    values: Values

    def compute(self, store: Store, out: Path) -> None:
        total = np.load(store.get(self.values) / "values.npy").sum()
        (out / "total.json").write_text(json.dumps(float(total)))


@dataclasses.dataclass(frozen=True)
class Copy(Stage):
    """A copy of a file, which may be edited meanwhile; fails after that if `fails` says so."""

    kind: ClassVar[str] = "copy"

    source: str = content()
    inner: "Copy | None" = None
    edit: Any = volatile(None)
    fails: bool = volatile(False)

    def compute(self, store: Store, out: Path) -> None:
        if self.inner is not None:
            store.get(self.inner)
        if self.edit is not None:
            self.edit()
        (out / "copy.txt").write_bytes(Path(self.source).read_bytes())
        if self.fails:
            raise ValueError("line 3: not JSON")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def names(*paths: Path) -> str:
    return "|".join(re.escape(str(path)) for path in paths)


def test_every_file_is_recorded_with_size_and_sha256(store):
    folder = store.get(Values())
    record = json.loads((folder / "meta.json").read_text())["files"]
    assert record.keys() == {"values.npy", "columns/1.json"}
    assert record["values.npy"]["bytes"] == 128 + 12 * 8  # numpy's header, and the values
    for name, entry in record.items():
        line = subprocess.run(["sha256sum", folder / name], capture_output=True, check=True)
        assert entry["sha256"] == line.stdout.decode().split()[0]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["values.npy", "columns/1.json", "meta.json"])
def test_a_damaged_file_is_named_wherever_the_result_is_used(store, name, damage):
    path = store.get(Values()) / name
    DAMAGES[damage](path)
    with pytest.raises(DamagedResultError, match=names(path)):
        store.get(Values())
    with pytest.raises(DamagedResultError, match=f"{names(path)}.*force=values"):
        store.get(Total(Values()))
    with pytest.raises(DamagedResultError, match=names(path)):
        ResultIndex(store).results[key(Values())].file(name)
    with pytest.raises(DamagedResultError, match=f"^1 file is wrong\n{names(path)}"):
        Verify().make(store)
    assert not store.path(Total(Values())).exists()


def test_no_use_of_real_results_is_silent(toy):
    """As experiments/reliability/corruption.py, which does it to results of every kind."""
    stages = [toy.subset(), toy.subset().ranking, toy.tokenizer, toy.proxy.tokens()]
    by_folder = {toy.store.get(stage): stage for stage in stages}
    damaged = [*trials(by_folder, lambda folder: toy.store.get(User(by_folder[folder])))]
    assert len(damaged) > 60
    assert {trial.outcome for trial in damaged} == {"named"}
    assert not [path for folder in by_folder for path in folder.rglob(".*.partial")]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["values.npy", "meta.json"])
def test_it_is_computed_anew_only_on_request(store, name, damage):
    folder = store.get(Values())
    before = (folder / "values.npy").read_bytes()
    DAMAGES[damage](folder / name)
    forced = dataclasses.replace(store, force="values", since=Store().since)
    assert forced.get(Values()) == folder
    assert (folder / "values.npy").read_bytes() == before
    assert store.get(Total(Values())).exists()
    assert "checked 3 files of 2 results" in Verify().make(store)


def test_every_single_bit_of_a_record_counts(store):
    path = store.get(Values()) / "meta.json"
    written = path.read_bytes()
    for place in range(0, len(written), 7):
        damaged = bytearray(written)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(DamagedResultError, match=names(path)):
            check(path.parent)


def test_files_are_hashed_once_in_a_process(store, monkeypatch):
    folder = store.get(Values())
    hashed = []
    monkeypatch.setattr(module, "_sha256", lambda path: hashed.append(path.name))
    monkeypatch.setattr(module, "_compare", lambda *_: None)
    monkeypatch.setattr(module, "_hashed", set())
    for _ in range(3):
        store.get(Values())
    assert sorted(hashed) == ["1.json", "values.npy"]
    monkeypatch.setattr(module, "LARGE", 100)
    monkeypatch.setattr(module, "_hashed", set())
    check(folder)
    assert sorted(hashed) == ["1.json", "1.json", "values.npy"]  # not the large one
    Verify().make(store)
    assert sorted(hashed) == ["1.json"] * 3 + ["values.npy"] * 2


def test_what_could_not_be_read_is_not_taken_as_hashed(tmp_path, monkeypatch):
    def fail(path: Path) -> str:
        raise OSError("input/output error")

    (tmp_path / "values.bin").write_bytes(b"ab")
    monkeypatch.setattr(module, "_sha256", fail)
    monkeypatch.setattr(module, "_hashed", set())
    with pytest.raises(OSError, match="input/output"):
        record_files(tmp_path)
    assert module._hashed == set()


def test_results_of_before_are_usable_and_listed(store, caplog):
    folder = store.get(Values())
    meta = json.loads((folder / "meta.json").read_text())
    del meta["files"], meta["sha256"]
    (folder / "meta.json").write_text(json.dumps(meta, indent=2))
    flip(folder / "values.npy")
    with caplog.at_level(logging.DEBUG, logger="xmas"):
        assert store.get(Values()) == store.get(Values()) == folder
    assert sum("recorded no hashes" in line for line in caplog.messages) == 1
    store.get(Values(1))
    text = Verify().make(store)
    assert f"Without hashes, made by an older version: values/{folder.name}" in text
    assert "checked 2 files of 1 results" in text


def test_a_score_of_which_anything_is_lost_is_no_lost_row(tmp_path):
    store = Store(str(tmp_path))
    folder = Shelves(tmp_path)("xmas", "gqa", 61.2)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(sealed(meta | {"files": record_files(folder)}))
    assert len(runs(store)) == 1
    for name in ("run.json", "score.json", "meta.json"):
        written = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(DamagedResultError, match=names(folder / name)):
            runs(store)
        (folder / name).write_bytes(written)


@dataclasses.dataclass(frozen=True)
class Pictures(Stage):
    """Four pictures and what lists them."""

    kind: ClassVar[str] = "pictures"

    def compute(self, store: Store, out: Path) -> None:
        (out / "images").mkdir()
        for number in range(4):
            image = Image.new("RGB", (8, 8), (40 * number, 9, 9))
            image.save(out / "images" / f"{number}.bmp")  # a flipped byte is another colour
        (out / "pool.json").write_text("[]")


def test_of_many_files_each_is_checked_where_it_is_read(store, monkeypatch):
    monkeypatch.setattr(module, "FEW", 4)
    folder = store.get(Pictures())
    assert set(json.loads((folder / "meta.json").read_text())["files"]) == {
        "files.json", "pool.json",
    }  # fmt: skip
    images = store.find(Made(Pictures(), "images"))
    assert open_image(images / "2.bmp").getpixel((0, 0)) == (80, 9, 9)
    for read in (open_image, image_size):
        for name, damage in DAMAGES.items():
            path = images / "2.bmp"
            written = path.read_bytes()
            damage(path)
            store.get(Pictures())  # the others are as they were
            open_image(images / "1.bmp")
            with pytest.raises(ValueError, match=names(path)):
                read(path)
            with pytest.raises(DamagedResultError, match=names(path)):
                Verify(kind="pictures").make(store)
            path.write_bytes(written)
            assert open_image(path), name
    for name in ("files.json", "pool.json"):
        flip(folder / name)
        with pytest.raises(DamagedResultError, match=names(folder / name)):
            store.get(Pictures())


def test_pictures_of_the_user_are_not_listed_anywhere(tmp_path):
    path = tmp_path / "0123456789ab" / "a.png"
    path.parent.mkdir()
    Image.new("RGB", (3, 2)).save(path)
    assert image_size(path) == (2, 3)


def test_verify_names_a_moved_result_and_files_it_did_not_write(store):
    folder = store.get(Values())
    (folder / "notes.txt").write_text("mine")
    assert f"Not written by the store, and left alone: {folder}/notes.txt" in Verify().make(store)
    other = store.path(Values(1))
    shutil.copytree(folder, other)
    with pytest.raises(DamagedResultError, match=f"{names(other)}/meta.json is of values"):
        Verify().make(store)
    with pytest.raises(DamagedResultError, match=f"{names(other)}/meta.json is of values"):
        store.get(Values(1))
    with pytest.raises(ValueError, match=r"verify\.kind=value: .* did you mean values\?"):
        Verify(kind="value").make(store)


@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
def test_of_a_file_that_is_edited_meanwhile_nothing_is_stored(store, tmp_path, fails):
    source = tmp_path / "pool.json"
    source.write_text("before")
    stage = Copy(str(source), fails=fails)
    folder = store.path(stage)
    with pytest.raises(
        ChangedFileError, match=rf"{names(source)} was edited.* copy {folder.name}.*same command"
    ):
        store.get(dataclasses.replace(stage, edit=lambda: source.write_text("after")))
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == []
    assert (store.get(Copy(str(source))) / "copy.txt").read_text() == "after"
    source.write_text("before")
    assert (store.get(Copy(str(source))) / "copy.txt").read_text() == "before"


def test_a_file_that_is_removed_meanwhile_is_named_and_a_touched_one_is_the_same(store, tmp_path):
    source = tmp_path / "pool.json"
    source.write_text("text")
    with pytest.raises(ChangedFileError, match=f"{names(source)} was removed"):
        store.get(Copy(str(source), edit=source.unlink))
    source.write_text("text")
    stage = Copy(str(source), edit=lambda: source.write_text("text"))
    assert (store.get(stage) / "copy.txt").read_text() == "text"


def test_an_outer_result_is_not_made_of_an_edited_file_either(store, tmp_path):
    source = tmp_path / "pool.json"
    source.write_text("before")
    inner = Copy(str(source), edit=lambda: source.write_text("after"))
    outer = Copy(str(tmp_path / "damage.txt"), inner=inner)
    (tmp_path / "damage.txt").write_text("other")
    with pytest.raises(ChangedFileError, match=names(source)):
        store.get(outer)
    assert not list(Path(store.root).glob("copy/*/"))


def test_hashes_are_noted_for_every_computation_that_waits(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("a")
    with hashed_files() as outer:
        sha256_of(path)
        with hashed_files() as inner:
            sha256_of(path)
            assert inner == outer == {str(path): sha256_of(path)}
        (tmp_path / "b.json").write_text("b")
        sha256_of(tmp_path / "b.json")
    assert set(outer) == {str(path), str(tmp_path / "b.json")}
    assert set(inner) == {str(path)}


def test_a_pool_of_a_configured_sha256_that_is_edited_meanwhile_is_named(store, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Counted(Stage):
        kind: ClassVar[str] = "counted"

        pool: Pool

        def compute(self, store: Store, out: Path) -> None:
            (out / "rows.txt").write_text(str(len(self.pool.open(store))))
            Path(str(self.pool.annotations)).write_text("[ ]")

    path = tmp_path / "pool.json"
    path.write_text("[]")
    sha256 = "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"
    with pytest.raises(ChangedFileError, match=f"{names(path)} was edited"):
        store.get(Counted(Pool(str(path), str(tmp_path), sha256)))
