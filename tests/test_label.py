"""Labels of results and the links that are named after them."""

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import pytest

from xmas.data.pool import Pool
from xmas.evaluation.benchmarks.gqa import Gqa
from xmas.evaluation.quick import Quick
from xmas.evaluation.scores import Score
from xmas.store import Stage, Store, by_name, describe, key
from xmas.store.label import file_name, label


@dataclasses.dataclass(frozen=True)
class Note(Stage):
    kind: ClassVar[str] = "note"

    pool: Pool
    words: int = 3
    text: str = ""

    def compute(self, store: Store, out: Path) -> None:
        (out / "note.txt").write_text(self.text)


@pytest.fixture
def note(tmp_path: Path) -> Note:
    return Note(Pool("a.json", "images", sha256="f83e0b64c1", name="mine/v2"))


def test_a_stage_is_labelled_by_what_it_selects_and_from_which_pool(toy):
    ten = toy.subset(toy.length, rows=None, fraction=0.1)
    assert label(ten) == "length, 10 %, seed 0, pool toy"
    assert label(ten.ranking) == "length, seed 0, pool toy"
    assert label(toy.subset(toy.xmas, rows=1200)) == ("xmas, 1,200 rows, seed 0, pool toy")
    target = toy.target(ten, seed=4)  # its start has a pool as well, and the ranking a seed
    assert label(target) == "length, 10 %, seed 4, pool toy"


def test_other_stages_are_labelled_by_their_inputs_and_numbers(toy):
    assert label(toy.proxy) == "3 snapshots, max_length 256, seed 0, pool toy"
    assert label(toy.clusters) == "of trajectories, k 5, 100 iterations, seed 1234, pool toy"


def test_a_score_is_labelled_by_its_benchmark(toy):
    gqa = Gqa("questions.jsonl", "annotations.json", "images", split="val")
    target = toy.target(toy.subset(rows=None, fraction=0.29))
    tail = "random, 29 %, seed 0, pool toy"
    assert label(Score(gqa, target)) == f"gqa val, {tail}"
    assert label(Score(Quick(gqa, 7), target)) == f"quick gqa val, {tail}"


def test_a_configuration_has_the_same_label_but_for_the_name_of_the_pool(toy, note):
    for stage in (toy.subset(toy.length), toy.proxy, toy.clusters, note):
        head, pool = label(describe(stage)).split(", pool ")
        assert label(stage).startswith(f"{head}, pool ")
        assert len(pool) == 6
    assert label(describe(note)) == "3 words, pool f83e0b"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("xmas, 10 %, seed 0, pool demo", "xmas-10%-seed0-demo"),
        ("8,000 rows, pool a/b\n c", "8000_rows-a_b_c"),
        ("pool ../..", "_.."),
        ("pool .hidden", "hidden"),
        ("pool Bilder für Größen", "Bilder_für_Größen"),
        ("pool " + "ü" * 80, "ü" * 50),
    ],
)
def test_a_link_s_name_is_one_that_any_file_system_has(text, name):
    assert file_name(text) == name


def links(store: Store) -> dict[str, str]:
    folder = Path(store.root) / "by-name" / "note"
    return {path.name: str(path.readlink()) for path in folder.iterdir()}


def test_a_result_has_a_link_that_no_list_of_results_contains(tmp_path, note):
    store = Store(str(tmp_path / "store"))
    folder = store.get(note)
    assert links(store) == {"3_words-mine_v2": f"../../note/{key(note)}"}
    assert (Path(store.root) / "by-name" / "note" / "3_words-mine_v2" / "note.txt").exists()
    assert [path for path, _ in store.results("note")] == [folder]
    assert list(Path(store.root).glob("*/[!.]*/meta.json")) == [folder / "meta.json"]
    assert json.loads((folder / "meta.json").read_text())["label"] == "3 words, pool mine/v2"


def test_results_of_one_label_have_their_keys_in_the_link(tmp_path, note):
    store = Store(str(tmp_path / "store"))
    other = dataclasses.replace(note, text="other")
    store.get(note)
    store.get(other)
    by_name.link(store.path(other), label(other))
    assert links(store) == {
        "3_words-mine_v2": f"../../note/{key(note)}",
        f"3_words-mine_v2-{key(other)}": f"../../note/{key(other)}",
    }


def test_a_link_to_a_removed_result_is_replaced(tmp_path, note):
    store = Store(str(tmp_path / "store"))
    other = dataclasses.replace(note, text="other")
    store.get(note).rename(tmp_path / "elsewhere")
    store.get(other)
    assert links(store) == {"3_words-mine_v2": f"../../note/{key(other)}"}
    store.path(other).rename(tmp_path / "too")
    by_name.unlink_removed(Path(store.root) / "note")
    assert links(store) == {}


def test_a_file_of_that_name_is_left_alone(tmp_path, note):
    store = Store(str(tmp_path / "store"))
    place = Path(store.root) / "by-name" / "note" / "3_words-mine_v2"
    place.parent.mkdir(parents=True)
    place.write_text("a user's")
    store.get(note)
    assert place.read_text() == "a user's"
    assert (place.parent / f"{place.name}-{key(note)}").readlink() == Path(
        f"../../note/{key(note)}"
    )


def test_a_file_system_without_links_has_none(tmp_path, note, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert (Store(str(tmp_path / "store")).get(note) / "note.txt").exists()
