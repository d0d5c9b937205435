"""Subsets in every trainer's format: loaded as the trainers do, they are the dialogues chosen."""

import dataclasses
import json
from pathlib import Path

import datasets
import dialogues
import numpy as np
import pyarrow.parquet
import pytest
import shards
from dialogues import DIALOGUES, OWN_FORMS, POOLS, Turns
from pages import DOCS
from toy import ROWS, Toy

from xmas.data import writers
from xmas.data.chosen_rows import ChosenRows
from xmas.data.faults import Fault
from xmas.data.pool import Pool
from xmas.data.rows import PoolError
from xmas.data.tables import parquet_shards
from xmas.data.writers import form_of, write_form
from xmas.doctor.cleaned import write_cleaned
from xmas.results.clean import PRODUCTS
from xmas.selection.methods.random import Random
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.selection.subset_forms import SubsetFiles
from xmas.store import Store, key

CHOSEN = np.array([0, 1, 3, 4])
EXPECTED = [DIALOGUES[row] for row in CHOSEN]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """All forms of pools, and their pictures."""
    folder = tmp_path_factory.mktemp("forms")
    dialogues.write_images(folder / "images")
    for name, write in POOLS.items():
        write(folder / name)
    return folder


def pool_of(place: Path, name: str) -> Pool:
    return Pool(str(place / name), str(place / "images"), name="zoo")


def written(place: Path, name: str, form: str, folder: Path, chosen=CHOSEN) -> Path:
    folder.mkdir(exist_ok=True)
    write_form(form, pool_of(place, name).open(), chosen, folder, folder)
    return folder


@pytest.fixture(params=POOLS)
def name(request) -> str:
    return request.param


def images_root(place: Path, name: str, folder: Path) -> Path:
    in_files = pool_of(place, name).open().all_in_files
    return place / "images" if in_files else folder


def the_records(folder: Path) -> Path:
    """The file of a form that has the rows."""
    ends = (".jsonl", ".parquet", "messages.json", "instructions.json", "records.json")
    return next(path for path in sorted(folder.iterdir()) if path.name.endswith(ends))


def test_a_pool_s_own_form(place):
    forms = tuple(form_of(pool_of(place, name).open()) for name in POOLS)
    assert forms == OWN_FORMS


def test_llava_and_llava_next(place, name, tmp_path):
    written(place, name, "llava", tmp_path, np.array([0, 1, 2, 3, 4]))
    if name == "llava.jsonl":  # its records stay as they are, with nulls
        lines = (place / name).read_bytes().split(b"\n")
        assert (tmp_path / "instructions.json").read_bytes().split(b"\n")[1:-2] == [
            line + b"," * (number < 4) for number, line in enumerate(lines)
        ]
        return
    loaded = dialogues.load_llava_next(tmp_path, images_root(place, name, tmp_path))
    assert loaded == DIALOGUES


def test_messages_of_llama_factory(place, name, tmp_path):
    written(place, name, "messages", tmp_path)
    root = images_root(place, name, tmp_path)
    assert dialogues.load_llama_factory(tmp_path, root) == EXPECTED


def test_swift(place, name, tmp_path):
    written(place, name, "swift", tmp_path)
    assert dialogues.load_swift(tmp_path, images_root(place, name, tmp_path)) == EXPECTED


def test_internvl(place, name, tmp_path):
    written(place, name, "internvl", tmp_path, np.arange(5))
    assert dialogues.load_internvl(tmp_path) == DIALOGUES


def test_energon(place, name, tmp_path):
    written(place, name, "energon", tmp_path)
    assert dialogues.load_energon(tmp_path, dialogues.of_messages) == EXPECTED


def answers(turns: Turns) -> list[tuple[Turns, Turns]]:
    """The turns before every answer, and the answer."""
    places = [at for at, (role, _) in enumerate(turns) if role == "assistant"]
    return [(turns[:at], turns[at : at + 1]) for at in places]


def test_trl_has_a_row_for_each_answer(place, name, tmp_path):
    written(place, name, "trl", tmp_path)
    records = pyarrow.parquet.read_table(tmp_path / "train-00000.parquet").to_pylist()
    loaded = []
    for record in records:
        pictures = [dialogues.bytes_of(image) for image in record["images"]]
        parts = [dialogues.of_parts(record[side], pictures) for side in ("prompt", "completion")]
        assert not pictures
        loaded.append(tuple(parts))
    assert loaded == [pair for turns in EXPECTED for pair in answers(turns)]


def test_trl_of_whole_dialogues(place, name, tmp_path):
    written(place, name, "trl_dialogue", tmp_path)
    records = pyarrow.parquet.read_table(tmp_path / "train-00000.parquet").to_pylist()
    loaded = [
        dialogues.of_parts(r["messages"], [dialogues.bytes_of(image) for image in r["images"]])
        for r in records
    ]
    assert loaded == EXPECTED


def test_every_form_is_a_pool_of_the_same_rows(place, name, tmp_path):
    """By our own readers: same turns, same bytes of pictures, same sources."""
    pool = pool_of(place, name).open()
    for form in ("llava", "messages", "swift", "internvl", "energon", "parquet", "trl_dialogue"):
        folder = tmp_path / form
        written(place, name, form, folder)
        again = Pool(str(the_records(folder)), str(images_root(place, name, folder))).open()
        assert len(again) == len(CHOSEN)
        for at, row in enumerate(CHOSEN.tolist()):
            assert again.turns(at) == pool.turns(row)
            contents = [
                [image if isinstance(image, bytes) else image.read_bytes() for image in images]
                for images in (again.images_of(at), pool.images_of(row))
            ]
            assert contents[0] == contents[1] == dialogues.pictures_of(DIALOGUES[row])


def test_fine_vision_s_columns_stay_for_nano_vlm_and_become_every_other_form(tmp_path):
    rows = Pool(str(shards.write(tmp_path / "fine"))).open()
    chosen = np.array([0, 1, 3, 7, 10])
    for form in ("parquet", "llava", "messages", "swift", "internvl", "energon", "trl_dialogue"):
        (tmp_path / form).mkdir()
        write_form(form, rows, chosen, tmp_path / form, tmp_path / form)
        again = Pool(str(the_records(tmp_path / form)), str(tmp_path / form)).open()
        assert [again.turns(at) for at in range(5)] == [rows.turns(row) for row in chosen.tolist()]
        assert again.sources.tolist() == rows.sources[chosen].tolist()
    records = pyarrow.parquet.read_table(tmp_path / "parquet").to_pylist()
    assert records == [shards.record(int(row)) for row in chosen]


@pytest.mark.parametrize(
    ("name", "form", "file"),
    [
        ("llava.json", "llava", "instructions.json"),
        ("messages.json", "messages", "messages.json"),
        ("messages.jsonl", "messages", "messages.jsonl"),
        ("sharegpt.json", "messages", "messages.json"),
        ("openai.jsonl", "records", "records.jsonl"),
        ("unsloth.json", "records", "records.json"),
    ],
)
def test_records_of_json_stay_byte_for_byte_in_the_pool_s_form(place, name, form, file, tmp_path):
    written(place, name, form, tmp_path)
    rows = pool_of(place, name).open()
    raw = [rows.raw(row) for row in CHOSEN.tolist()]
    expected = (
        b"\n".join([*raw, b""]) if file.endswith("l") else b"[\n" + b",\n".join(raw) + b"\n]\n"
    )
    assert (tmp_path / file).read_bytes() == expected


def test_a_table_keeps_its_columns_and_features(place, tmp_path):
    written(place, "messages.parquet", "parquet", tmp_path / "subset")
    before = datasets.load_dataset(
        "parquet", data_files=str(place / "messages.parquet"), split="train",
        cache_dir=str(tmp_path / "before"),
    )  # fmt: skip
    after = datasets.load_dataset(
        str(tmp_path / "subset"), split="train", cache_dir=str(tmp_path / "after")
    )
    assert after.features == before.features
    plain = [
        dataset.cast_column("images", [datasets.Image(decode=False)]) for dataset in (before, after)
    ]
    assert list(plain[1]) == [plain[0][int(row)] for row in CHOSEN]


@pytest.mark.parametrize("form", ["parquet", "trl", "trl_dialogue"])
def test_datasets_decodes_the_pictures_of_a_folder_in_the_store(place, form, tmp_path):
    """The folder also has JSON: `datasets` is to take the shards alone."""
    subset = Subset(Ranking(pool_of(place, "llava.json"), Random()), rows=5)
    folder = Store(str(tmp_path / "store")).get(SubsetFiles.of(subset, form))
    assert {"meta.json", "README.txt"} < {path.name for path in folder.iterdir()}
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features["images"].feature == datasets.Image()
    sizes = [[image.size for image in record["images"]] for record in loaded]
    before = [
        before
        for turns in DIALOGUES
        for before in ([turns for turns, _ in answers(turns)] if form == "trl" else [turns])
    ]
    numbers = [map(dialogues.PICTURES.index, dialogues.pictures_of(turns)) for turns in before]
    expected = [[(9 + n % 5, 7 + n % 3) for n in of_row] for of_row in numbers]
    assert sizes == expected


def test_trl_prepares_what_was_written_for_it(place, tmp_path):
    """TRL's own preparation of multimodal messages, where it is installed."""
    trl = pytest.importorskip("trl.data_utils", reason="pip install trl")
    for form, sides in (("trl", ("prompt", "completion")), ("trl_dialogue", ("messages",))):
        folder = tmp_path / form
        written(place, "messages.parquet", form, folder)
        loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "c"))
        for record in loaded:
            assert trl.is_conversational(record)
            first = trl.prepare_multimodal_messages(record[sides[0]], images=record["images"])
            count = sum("image" in part for turn in first for part in turn["content"])
            assert count == len(record["images"])
            if form == "trl":
                trl.prepare_multimodal_messages(record["completion"])


def test_a_picture_of_shards_is_written_once_under_its_hash(place, tmp_path):
    written(place, "messages.parquet", "swift", tmp_path)
    files = sorted(path for path in (tmp_path / "images").rglob("*") if path.is_file())
    assert sorted(path.read_bytes() for path in files) == sorted(dialogues.PICTURES)
    assert all(path.suffix == ".png" and path.parent.name == path.name[:2] for path in files)


def test_a_picture_that_a_kill_cut_short_is_written_again(place, tmp_path):
    written(place, "messages.parquet", "swift", tmp_path)
    file = next(path for path in sorted((tmp_path / "images").rglob("*.png")))
    content = file.read_bytes()
    file.write_bytes(content[:20])
    written(place, "messages.parquet", "swift", tmp_path)
    assert file.read_bytes() == content


def test_groups_and_shards_are_bounded_by_bytes(place, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_shards, "GROUP_BYTES", 1)
    monkeypatch.setattr(parquet_shards, "SHARD_BYTES", 300)
    written(place, "messages.parquet", "parquet", tmp_path)
    files = sorted(tmp_path.glob("*.parquet"))
    assert [file.name for file in files] == [f"train-{n:05}.parquet" for n in range(len(files))]
    assert len(files) > 1
    counts = [pyarrow.parquet.ParquetFile(file).metadata for file in files]
    assert sum(count.num_row_groups for count in counts) == 3  # one for each group of the pool
    again = Pool(str(tmp_path)).open()
    pool = pool_of(place, "messages.parquet").open()
    assert [again.turns(at) for at in range(4)] == [pool.turns(int(row)) for row in CHOSEN]


def test_a_text_with_a_placeholder_and_no_picture_is_refused_by_name(toy: Toy, tmp_path):
    """LLaMA-Factory would end with an error, ms-swift drop the row."""
    rows = toy.pool.open()
    row = next(row for row in range(len(rows)) if "<image>" in rows.conversation(row)[0][0])
    for form in ("messages", "swift", "parquet"):
        with pytest.raises(
            PoolError, match=rf"pool\.json: row {row} .*has an <image> and no `image"
        ):
            write_form(form, rows, np.array([row]), tmp_path, tmp_path)
    for form in ("llava", "internvl", "trl"):
        write_form(form, rows, np.array([row]), tmp_path, tmp_path)


def test_a_picture_without_a_placeholder_gets_one(place, tmp_path):
    """As TRL reads such rows: the pictures open the first question."""
    said = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "An owl."}]
    record = {"messages": said, "images": ["zoo/0.png", "zoo/1.png"]}
    (tmp_path / "mix.jsonl").write_text(json.dumps(record))
    rows = Pool(str(tmp_path / "mix.jsonl"), str(place / "images")).open()
    write_form("messages", rows, np.array([0]), tmp_path, tmp_path)
    expected = [("user", [*dialogues.PICTURES[:2], "Who?"]), ("assistant", ["An owl."])]
    assert dialogues.load_llama_factory(tmp_path, place / "images") == [expected]


def test_parts_of_records_with_other_names_get_those_of_the_trainer(place, tmp_path):
    def renamed(turns: Turns) -> dict:
        record = dialogues.llava(turns)
        return {"said": record.pop("conversations"), "photo": record.pop("image", None)} | record

    dialogues.write_list(tmp_path / "mix.json", renamed)
    columns = {"conversations": "said", "image": "photo"}
    images = str(place / "images")
    rows = Pool(str(tmp_path / "mix.json"), images, columns=columns, format="llava").open()
    for form in ("llava", "messages"):
        (tmp_path / form).mkdir()
        write_form(form, rows, CHOSEN, tmp_path / form, tmp_path / form)
    assert dialogues.load_llava_next(tmp_path / "llava", place / "images") == EXPECTED
    assert dialogues.load_llama_factory(tmp_path / "messages", place / "images") == EXPECTED


def test_what_some_loaders_of_llava_s_form_do_not_read_is_said(place, tmp_path, caplog):
    caplog.set_level("INFO")
    for name in ("llava.json", "messages.parquet"):
        said = write_form("llava", pool_of(place, name).open(), CHOSEN, tmp_path, tmp_path)
        assert [sentence.split(":")[0] for sentence in said] == [
            "Several pictures in 3 of these rows (a list under `image`)",
            "A system turn in 1 of these rows",
        ]
        assert all(sentence in caplog.text for sentence in said)
    assert write_form("llava", pool_of(place, name).open(), CHOSEN[:1], tmp_path, tmp_path) == []


def test_a_picture_in_an_answer_is_refused_by_trl_alone(place, tmp_path):
    record = {"image": "zoo/1.png", "conversations": [{"from": "human", "value": "Draw."}]}
    record["conversations"].append({"from": "gpt", "value": "Here: <image>"})
    (tmp_path / "mix.json").write_text(json.dumps([record]))
    rows = Pool(str(tmp_path / "mix.json"), str(place / "images")).open()
    write_form("trl_dialogue", rows, np.array([0]), tmp_path, tmp_path)
    with pytest.raises(PoolError, match=r"mix\.json: row 0: turn 1, an answer, shows a picture"):
        write_form("trl", rows, np.array([0]), tmp_path, tmp_path)


def test_what_is_no_image_is_not_written_as_one(place, tmp_path):
    def broken(turns: Turns) -> dict:
        record = dialogues.table_record(turns)
        return record | {"images": [image | {"bytes": b"<html>"} for image in record["images"]]}

    dialogues.write_parquet(tmp_path / "broken.parquet", broken)
    rows = Pool(str(tmp_path / "broken.parquet")).open()
    with pytest.raises(PoolError, match=r"broken\.parquet: row 0: picture 0:0: .*invalid=skip"):
        write_form("swift", rows, CHOSEN, tmp_path, tmp_path)


def test_a_pool_without_some_rows_is_written_from_its_own_files(place, name, tmp_path):
    """Rows that are left out number the others anew; records stay byte for byte."""
    whole = pool_of(place, name).open()
    rows = ChosenRows(whole, np.array([4, 0, 3, 1]))
    assert form_of(rows) == form_of(whole)
    chosen = np.array([0, 3])  # rows 4 and 1 of the file, in this order
    for form in ("swift", form_of(rows)):
        (tmp_path / form).mkdir()
        write_form(form, rows, chosen, tmp_path / form, tmp_path / form)
    root = images_root(place, name, tmp_path / "swift")
    assert dialogues.load_swift(tmp_path / "swift", root) == [DIALOGUES[4], DIALOGUES[1]]
    file = the_records(tmp_path / form_of(rows))
    again = Pool(str(file), str(place / "images")).open()
    assert [again[at] for at in range(2)] == [whole[4], whole[1]]


def test_a_dataset_in_memory_is_written_as_parquet(place, tmp_path):
    records = [dialogues.table_record(turns) for turns in DIALOGUES]
    features = datasets.Features(shards.features_of(records[0]))
    pool = Pool.from_dataset(datasets.Dataset.from_list(records, features=features))
    written_folder = Subset(Ranking(pool, Random()), rows=4).make(Store(str(tmp_path)))
    again = Pool(written_folder.splitlines()[1]).open()
    assert len(again) == 4
    assert again[0] in records


@pytest.mark.parametrize(("name", "form"), [*zip(POOLS, OWN_FORMS, strict=True)])
def test_the_form_of_the_pool_is_the_default(place, name, form, tmp_path):
    store = Store(str(tmp_path))
    subset = Subset(Ranking(pool_of(place, name), Random()), rows=4)
    folders = subset.make(store).splitlines()
    assert Path(folders[0]) == store.get(subset)
    if form == "llava":
        assert folders[1:] == []
        assert (store.get(subset) / "instructions.json").exists()
    else:
        assert folders[1:] == [str(store.get(SubsetFiles.of(subset, form)))]
        assert not (store.get(subset) / "instructions.json").exists()


def test_another_form_asked_for_later_ranks_and_cuts_nothing(place, tmp_path):
    pool = pool_of(place, "messages.parquet")
    store, subset = Store(str(tmp_path)), Subset(Ranking(pool, Random()), rows=3)
    subset.make(store)
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("meta.json")}
    later = dataclasses.replace(subset, write="swift")
    assert key(later) == key(subset)
    _, folder = later.make(store).splitlines()
    assert (Path(folder) / "swift.jsonl").exists()
    new = {path for path in tmp_path.rglob("meta.json") if path not in finished}
    assert new == {Path(folder) / "meta.json"}
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    meta = json.loads((Path(folder) / "meta.json").read_text())
    assert {"swift.jsonl", "README.txt"} < set(meta["files"])
    links = {path.name: path.resolve() for path in (tmp_path / "by-name/subset_files").iterdir()}
    assert links["swift-random-3_rows-seed0-zoo"] == Path(folder)
    assert "subset_files" in PRODUCTS  # `goal=clean` keeps them


def test_ranked_has_every_budget_as_a_beginning(toy: Toy, tmp_path):
    subset = toy.subset(rows=None, fraction=0.5, text_only="proportional")
    folder = toy.store.get(SubsetFiles.of(subset, "ranked"))
    raw = [toy.pool.open().raw(row).replace(b"\n", b" ") for row in range(ROWS)]
    lines = (folder / "ranked.jsonl").read_bytes().splitlines()
    assert sorted(lines) == sorted(raw)
    for fraction in (0.05, 0.2, 0.5):
        cut = dataclasses.replace(subset, fraction=fraction)
        assert toy.store.get(SubsetFiles.of(cut, "ranked")) == folder
        chosen = cut.chosen(toy.store).tolist()
        assert sorted(lines[: len(chosen)]) == sorted(raw[row] for row in chosen)
    root = toy.folder / "images"
    everything = dialogues.load_llava_next(folder, root)
    for name, old, new in (
        ("llava_next.yaml", '"all"', '"first:20%"'),
        ("internvl_meta.json", '"repeat_time": 1', '"repeat_time": 0.2'),
    ):
        text = (folder / name).read_text().replace(old, new)
        assert text != (folder / name).read_text()
        (tmp_path / name).write_text(text)
    assert dialogues.load_llava_next(tmp_path, root) == everything[:9]  # 8.2, which it rounds up
    assert dialogues.load_internvl(tmp_path) == everything[:8]
    assert dialogues.load_energon(folder, dialogues.of_llava) == everything


def test_ranked_needs_a_ranking(toy: Toy):
    class Chosen:
        def select(self, pool, budget, rng, store):
            raise AssertionError

    with pytest.raises(
        ValueError, match=r"ranks nothing: subset\.write=\[ranked\] needs a ranking"
    ):
        Subset(Ranking(toy.pool, Chosen()), write=["ranked"])


def test_formats_are_names(toy: Toy):
    assert toy.subset(write="swift").write == toy.subset(write=["swift"]).write == ("swift",)
    assert toy.subset(write=None).write == ()


def test_readme_says_what_it_is_and_how_to_train_on_it(toy: Toy):
    folder = toy.store.get(toy.subset(rows=17, text_only="proportional"))
    text = (folder / "README.txt").read_text()
    first = text.splitlines()[0]
    assert first.startswith("17 of the 41 rows of pool toy (41.5 %), chosen by random, seed 0, for")
    assert "3 without a picture" in first
    for command in (
        f"--data_path {folder / 'instructions.json'}",
        f"--image_folder {toy.folder / 'images'}",
        "llamafactory-cli train",
        f"ROOT_IMAGE_DIR={toy.folder / 'images'}",
        "trl sft --dataset_name",
    ):
        assert command in text
    files = text.split("Files\n")[1].split("\n\n")[0]
    listed = {line.split(":")[0].strip() for line in files.splitlines()}
    assert listed == {path.name for path in folder.iterdir()} - {"README.txt"}
    swift = toy.store.path(SubsetFiles.of(toy.subset(rows=17, text_only="proportional"), "swift"))
    assert f"--dataset {swift / 'swift.jsonl'}" in text  # where it will be, once it is asked for


@pytest.mark.parametrize("form", writers.names())
def test_every_form_has_a_readme_with_its_files(place, form, tmp_path):
    subset = Subset(Ranking(pool_of(place, "messages.jsonl"), Random()), rows=4)
    folder = Store(str(tmp_path)).get(SubsetFiles.of(subset, form))
    text = (folder / "README.txt").read_text()
    assert "rows of pool zoo" in text.splitlines()[0]
    assert "Train on it" in text
    named = [path.name for path in folder.iterdir() if path.name != "README.txt"]
    assert all(f"  {name}" in text for name in named)


@pytest.mark.parametrize("name", ["llava.json", "messages.jsonl", "unsloth.json"])
def test_the_doctor_writes_records_of_json_as_they_are(place, name, tmp_path):
    rows = pool_of(place, name).open()
    faults = [Fault(row, None, None, "broken", "is broken") for row in (0, 3)]
    file = write_cleaned(rows, faults, tmp_path)
    assert file.suffix == Path(name).suffix
    again = Pool(str(file), str(place / "images")).open()
    assert [again.raw(at) for at in range(3)] == [rows.raw(row) for row in (1, 2, 4)]


def test_the_page_for_users_lists_every_form():
    text = (DOCS / "select-from-your-own-pool.md").read_text(encoding="utf-8")
    table = text.split("| `subset.write=` |", 1)[1].split("\n\n", 1)[0]
    names = [line.split("|")[1].strip(" `") for line in table.splitlines()[2:]]
    assert sorted(names) == writers.names()
