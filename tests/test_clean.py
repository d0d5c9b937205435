"""What a store contains, as a list, and what may be removed from it."""

import dataclasses
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest

from xmas.results.clean import Clean
from xmas.results.contents import contents
from xmas.results.inventory import Inventory
from xmas.results.listing import columns, size_text, time_text
from xmas.store import Stage, Store, key, volatile
from xmas.store.integrity import sealed

NOW = Clean(days=0)


@dataclasses.dataclass(frozen=True)
class Part(Stage):
    """Asks for its inputs, then writes; `calls` counts what is computed."""

    kind: ClassVar[str] = "part"

    calls: str = volatile()
    size: int = 1000
    parts: tuple[Stage, ...] = ()
    fails: bool = volatile(False)

    def compute(self, store: Store, out: Path) -> None:
        for stage in self.parts:
            store.get(stage)
        if self.fails:
            raise OSError("disk full")
        with open(self.calls, "a") as calls:
            calls.write(f"{self.kind}\n")
        (out / "values.bin").write_bytes(bytes(self.size))


@dataclasses.dataclass(frozen=True)
class Cut(Part):
    kind: ClassVar[str] = "subset"


@dataclasses.dataclass(frozen=True)
class Mark(Part):
    kind: ClassVar[str] = "score"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def calls(tmp_path: Path) -> str:
    path = tmp_path / "calls"
    path.touch()
    return str(path)


def computed(calls: str) -> int:
    return len(Path(calls).read_text().split())


def kinds(store: Store) -> list[str]:
    return [entry.kind for entry in contents(store).results]


def fill(store: Store, calls: str) -> dict[str, Part]:
    """A score of a subset of a part, and a part that nothing was made from."""
    needed = Part(calls, 1100)
    subset = Cut(calls, 1200, (needed,))
    score, alone = Mark(calls, 1300, (subset,)), Part(calls, 1400)
    for stage in (score, alone):
        store.get(stage)
    return {"score": score, "subset": subset, "needed": needed, "alone": alone}


def test_the_list_has_what_made_a_result_its_size_and_totals(store, calls):
    stages = fill(store, calls)
    text = Inventory().make(store)
    line = next(line for line in text.splitlines() if key(stages["score"]) in line)
    assert line.startswith("score   ")
    assert "size 1,300" in line
    assert f"{store.root}: 4 results, " in text
    folder = store.path(stages["score"])
    bytes_there = sum(path.stat().st_size for path in folder.iterdir())
    (entry,) = [entry for entry in contents(store).results if entry.kind == "score"]
    assert entry.bytes == bytes_there > 1300
    assert entry.seconds == json.loads((folder / "meta.json").read_text())["seconds"]


def test_the_list_can_be_narrowed(store, calls):
    stages = fill(store, calls)
    text = Inventory(kind="subset").make(store)
    assert key(stages["subset"]) in text
    assert key(stages["score"]) not in text
    assert "1 result, " in text
    assert "of kind subset" in text
    text = Inventory(kind=["part"], match="1,4").make(store)
    assert key(stages["alone"]) in text
    assert key(stages["needed"]) not in text
    assert Inventory(match="plum").make(store) == f"{store.root}: no results with 'plum'"


def test_results_of_one_label_are_told_apart_by_their_settings(store, calls):
    inner = [Part(calls, size) for size in (5, 6)]
    for part in inner:
        store.get(Cut(calls, 9, (part,)))
    lines = Inventory(kind="subset").make(store).splitlines()[1:3]
    assert {line.split("size 9, ")[1].split()[0] for line in lines} == {"size=5", "size=6"}


def test_unfinished_results_are_listed_apart_with_their_error(store, calls):
    with pytest.raises(OSError, match="disk full"):
        store.get(Cut(calls, 7, fails=True))
    text = Inventory().make(store)
    assert f"{store.root}: no results" in text
    line = next(line for line in text.splitlines() if key(Cut(calls, 7)) in line)
    assert "size 7" in line
    assert line.endswith("OSError: disk full")
    assert "Unfinished; the command that began one continues it, after its error is fixed:" in text
    (store.path(Cut(calls, 7)).with_name(f".{key(Cut(calls, 7))}") / "error.txt").unlink()
    assert "Unfinished; the command that began one continues it:" in Inventory().make(store)


def test_a_result_made_before_links_and_labels_has_both_in_the_list(store, calls):
    folder = store.get(Cut(calls, 9))
    meta = json.loads((folder / "meta.json").read_text())
    del meta["label"], meta["finished"]
    (folder / "meta.json").write_text(sealed(meta))
    links = Path(store.root) / "by-name" / "subset"
    (links / "size9").unlink()
    assert "size 9" in Inventory().make(store)
    assert (links / "size9").readlink() == Path(f"../../subset/{folder.name}")


def test_without_a_store_there_is_nothing(tmp_path):
    nowhere = Store(str(tmp_path / "nowhere"))
    assert Inventory().make(nowhere) == f"{nowhere.root}: no results"
    assert Clean().make(nowhere).startswith(f"{nowhere.root}: nothing to remove")
    assert not Path(nowhere.root).exists()


def test_cleaning_shows_first_and_then_removes_what_no_kept_result_needs(store, calls):
    stages = fill(store, calls)
    folder = store.path(stages["alone"])
    text = NOW.make(store)
    assert key(stages["alone"]) in text
    assert not any(key(stages[name]) in text for name in ("score", "subset", "needed"))
    assert "Nothing is removed yet: clean.yes=true frees " in text
    assert folder.exists()
    text = dataclasses.replace(NOW, yes=True).make(store)
    assert "Removed 1: " in text
    assert not folder.exists()
    assert kinds(store) == ["part", "score", "subset"]
    assert [path.name for path in (Path(store.root) / "by-name" / "part").iterdir()] == ["size1100"]
    before = computed(calls)
    store.get(stages["score"])
    for stage in (stages["subset"], stages["needed"]):
        store.get(stage)
    assert computed(calls) == before
    assert "nothing to remove" in dataclasses.replace(NOW, yes=True).make(store)


def test_the_list_warns_of_results_that_did_not_record_their_inputs(store, calls):
    stages = fill(store, calls)
    assert "older version" not in NOW.make(store)
    path = store.path(stages["score"]) / "meta.json"
    meta = json.loads(path.read_text())
    del meta["inputs"]
    path.write_text(sealed(meta))
    assert (
        "1 result was made by an older version that did not record its inputs: token tables and "
        "image features they used may be listed as removable."
    ) in NOW.make(store)


def test_the_kinds_to_keep_are_configured(store, calls):
    stages = fill(store, calls)
    other = Cut(calls, 9, (Part(calls, 8),))
    store.get(other)
    assert key(other) not in NOW.make(store)
    text = dataclasses.replace(NOW, keep=["score"]).make(store)
    assert key(other) in text
    assert key(Part(calls, 8)) in text
    assert key(stages["subset"]) not in text  # the score was made from it
    text = dataclasses.replace(NOW, keep=[]).make(store)
    assert all(key(stage) in text for stage in stages.values())


def test_a_misspelt_kind_of_the_list_is_refused_with_the_nearest(store, calls):
    fill(store, calls)
    with pytest.raises(
        ValueError,
        match=r"results\.kind=subsets: the store has none; did you mean subset\? "
        "There are part, score, subset",
    ):
        Inventory(kind=["part", "subsets"]).make(store)
    assert Inventory(kind="proxy").make(store) == f"{store.root}: no results of kind proxy"


def test_a_misspelt_kind_is_refused_with_the_nearest(store, calls):
    stages = fill(store, calls)
    with pytest.raises(
        ValueError, match=r"clean\.keep=scroe: no such kind; did you mean score\? There are audit, "
    ):
        Clean(yes=True, keep=["scroe"], days=0).make(store)
    assert store.path(stages["score"]).exists()
    assert key(stages["score"]) not in Clean(keep="score", days=0).make(store)


def test_what_is_young_is_kept(store, calls):
    stages = fill(store, calls)
    assert "nothing to remove" in Clean().make(store)
    meta = store.path(stages["alone"]) / "meta.json"
    old = json.loads(meta.read_text()) | {"finished": "2001-02-03T04:05:06+00:00"}
    meta.write_text(sealed(old))
    assert key(stages["alone"]) in Clean().make(store)


def fail(store: Store, stage: Part) -> Path:
    with pytest.raises(OSError, match="disk full"):
        store.get(dataclasses.replace(stage, fails=True))
    return store.path(stage).with_name(f".{key(stage)}")


def age(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (1, 1))


def test_old_drafts_are_removed_and_young_ones_keep_their_inputs(store, calls):
    needed = Part(calls, 8)
    draft = fail(store, Cut(calls, 9, (needed,)))
    recent = Clean(keep=[], days=1)
    made = store.path(needed) / "meta.json"
    made.write_text(
        sealed(json.loads(made.read_text()) | {"finished": "2001-02-03T04:05:06+00:00"})
    )
    assert "nothing to remove" in recent.make(store)
    age(draft)
    text = dataclasses.replace(recent, yes=True).make(store)
    assert "disk full" in text
    assert not draft.exists()
    assert not store.path(needed).exists()


def hold(root: str, stage: Part, ready: Any, end: Any) -> None:
    from xmas.store.lock import alone

    draft = Store(root).path(stage).with_name(f".{key(stage)}")
    with alone(draft, waiting=lambda: None):
        ready.set()
        end.wait(60)


def test_what_a_process_works_on_is_kept_and_all_results_with_it(store, calls):
    stages = fill(store, calls)
    running = Cut(calls, 9)
    draft, stale = fail(store, running), fail(store, Cut(calls, 10))
    age(draft)
    age(stale)
    fork = multiprocessing.get_context("fork")
    ready, end = fork.Event(), fork.Event()
    process = fork.Process(target=hold, args=(store.root, running, ready, end))
    process.start()
    assert ready.wait(60)
    try:
        text = dataclasses.replace(NOW, yes=True).make(store)
        assert f"Running: subset {key(running)}; until it ends, all results are kept" in text
        assert draft.exists()
        assert not stale.exists()
        assert store.path(stages["alone"]).exists()
        line = next(line for line in Inventory().make(store).splitlines() if key(running) in line)
        assert line.endswith("running now")
    finally:
        end.set()
        process.join(60)
    dataclasses.replace(NOW, yes=True).make(store)
    assert not draft.exists()
    assert not store.path(stages["alone"]).exists()


def test_a_result_whose_lock_another_process_has_is_left(store, calls):
    stages = fill(store, calls)
    fork = multiprocessing.get_context("fork")
    ready, end = fork.Event(), fork.Event()
    process = fork.Process(target=hold, args=(store.root, stages["alone"], ready, end))
    process.start()
    assert ready.wait(60)
    try:
        text = dataclasses.replace(NOW, yes=True).make(store)
        assert "Removed 0: 0 B" in text
        assert "Kept 1: another process has begun to compute them" in text
    finally:
        end.set()
        process.join(60)
    assert store.path(stages["alone"]).exists()


def test_what_the_store_has_not_written_is_never_touched(store, calls):
    fill(store, calls)
    root = Path(store.root)
    foreign = [
        root / "notes.txt",
        root / "part" / "backup" / "meta.json",
        root / "part" / "0123456789ab" / "values.bin",  # no meta.json
        root / "part" / "ba9876543210" / "meta.json",  # not JSON
        root / "part" / "aaaaaaaaaaaa" / "meta.json",  # of another result
        root / "part" / ".hidden" / "values.bin",
        root / "logs" / "xmas.log",
    ]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{")
    foreign[4].write_text(json.dumps({"kind": "part", "key": "bbbbbbbbbbbb", "config": {}}))
    text = dataclasses.replace(NOW, keep=[], yes=True).make(store)
    assert all(path.exists() for path in foreign)
    assert kinds(store) == []
    assert f"Left alone: {foreign[2].parent}: there is no meta.json" in text
    assert f"Left alone: {foreign[3].parent}: meta.json cannot be read" in text
    assert f"Left alone: {foreign[4].parent}: meta.json is of part bbbbbbbbbbbb" in text
    assert str(foreign[3].parent) in Inventory().make(store)


def test_an_interrupted_removal_or_replacement_is_ended(store, calls):
    stages = fill(store, calls)
    alone, needed = store.path(stages["alone"]), store.path(stages["needed"])
    alone.rename(alone.with_name(f".{alone.name}.removed"))
    needed.rename(needed.with_name(f".{needed.name}.former"))  # the only one there is
    text = dataclasses.replace(NOW, yes=True).make(store)
    assert f".{alone.name}.removed" in text
    assert not alone.with_name(f".{alone.name}.removed").exists()
    assert needed.exists()


def test_sizes_and_times_are_short():
    assert [size_text(count) for count in (0, 999, 1000, 12_345, 451e6, 2e12)] == [
        *("0 B", "999 B", "1.00 kB", "12.3 kB", "451 MB", "2.00 TB"),
    ]
    assert [time_text(seconds) for seconds in (0.04, 59, 90, 3600, 36000, 9e5)] == [
        *("0.0 s", "59 s", "1.5 min", "1.0 h", "10 h", "10 d"),
    ]
    assert columns([("a", "1"), ("bbb", "22")], right=(1,)) == ["a     1", "bbb  22"]
