"""Pools of Hugging Face datasets: Parquet and Arrow, pictures in the shards or in files."""

import copy
import json
import logging
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import shards
from toy import Toy, picture_name

from xmas.cli.config import build
from xmas.data.chosen_rows import ChosenRows
from xmas.data.pool import Pool
from xmas.data.readers import huggingface
from xmas.data.rows import PoolError
from xmas.data.turns import Turn
from xmas.doctor.files import check_pool
from xmas.selection.methods.random import Random
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import Store

ROWS = range(shards.ROWS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return shards.write(tmp_path_factory.mktemp("parquet") / "fine")


@pytest.fixture(scope="module")
def dataset(folder: Path, tmp_path_factory) -> datasets.Dataset:
    files = sorted(map(str, folder.glob("*.parquet")))
    cache = str(tmp_path_factory.mktemp("cache"))
    return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)


def content(pool: Pool) -> list:
    """Everything that a pool says, row by row."""
    rows = pool.open()
    every = range(len(rows))
    return [(rows.turns(row), rows.images_of(row), str(rows.sources[row])) for row in every]


def test_rows_of_parquet_are_those_that_were_written(folder):
    rows = Pool(str(folder)).open()
    assert rows.shown.counts.tolist() == list(shards.IMAGES)
    for row in ROWS:
        record = shards.record(row)
        assert rows.images_of(row) == [image["bytes"] for image in record["images"]]
        assert rows[row] == record
        assert rows.conversation(row) == [
            (pair["user"], pair["assistant"]) for pair in record["texts"]
        ]
        assert rows.turns(row)[0].images == (0,) * shards.IMAGES[row]
    assert rows.sources.tolist() == [shards.record(row)["source"] for row in ROWS]
    assert not rows.all_in_files


def test_a_column_is_read_without_the_others(folder, monkeypatch):
    rows = Pool(str(folder)).open()
    read = []
    for chunk in rows.table.chunks:
        whole = chunk.read
        monkeypatch.setitem(
            chunk.__dict__, "read", lambda names, whole=whole: read.append(names) or whole(names)
        )
    ratings = rows.column("visual_dependency_min")
    assert ratings.dtype == np.int64
    assert ratings.tolist() == [row % 4 for row in ROWS]
    assert {name for names in read for name in names} == {"visual_dependency_min"}
    assert rows.column("source").tolist() == rows.sources.tolist()
    with pytest.raises(PoolError, match=r"fine: column 'texts' is of type list<.*; give one with"):
        rows.column("texts")
    with pytest.raises(PoolError, match=r"fine: no column 'rating'; there are images, texts, "):
        rows.column("rating")


def test_a_column_that_some_shards_lack_or_have_in_another_type(tmp_path):
    turns = [[{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "He."}]] * 2
    for name, columns in {"a": {"score": [1, 2]}, "b": {"score": [0.5, None]}, "c": {}}.items():
        table = pyarrow.table({"messages": turns} | columns)
        pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet")
    scores = Pool(str(tmp_path)).open().column("score")
    assert np.array_equal(scores, [1, 2, 0.5, np.nan, np.nan, np.nan], equal_nan=True)


def test_a_field_of_json_records_is_a_column(tmp_path):
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "He."}]
    fields = [{"score": 3, "name": "a", "tags": []}, {"score": 4.5}, {"name": "c"}]
    path = tmp_path / "mix.json"
    path.write_text(json.dumps([{"messages": turns} | field for field in fields]))
    rows = Pool(str(path), ".").open()
    assert np.array_equal(rows.column("score"), [3, 4.5, np.nan], equal_nan=True)
    assert rows.column("name").tolist() == ["a", None, "c"]
    assert ChosenRows(rows, np.array([2, 0])).column("name").tolist() == ["c", "a"]
    with pytest.raises(PoolError, match=r"mix\.json: row 0 has tags \[\], expected a number or a"):
        rows.column("tags")
    with pytest.raises(PoolError, match=r"no record has 'rank'; row 0 has messages, score, name"):
        rows.column("rank")


def test_messages_with_a_system_turn(tmp_path):
    rows = Pool(str(shards.write(tmp_path / "said", shards.message_record))).open()
    assert rows.turns(1) == [
        Turn("system", "Be brief."),
        Turn("user", " and  and : which?", (0, 5, 10)),
        Turn("assistant", "No. 1"),
    ]


def test_whatever_has_the_table_gives_the_same_rows(folder, dataset, tmp_path):
    expected = content(Pool(str(folder)))
    dataset.save_to_disk(tmp_path / "disk")
    datasets.DatasetDict(train=dataset, test=dataset.select([4])).save_to_disk(tmp_path / "splits")
    for pool in (
        Pool(path=f"{folder}/*.parquet"),
        Pool(str(tmp_path / "disk")),
        Pool(str(tmp_path / "splits")),
        Pool.from_dataset(dataset),
    ):
        assert content(pool) == expected
    assert content(Pool(str(tmp_path / "splits"), split="test")) == [expected[4]]
    chosen = dataset.select([7, 1, 6])
    assert content(Pool.from_dataset(chosen)) == [expected[row] for row in (7, 1, 6)]


def test_a_dataset_of_the_hub_is_loaded_by_its_name(dataset, monkeypatch):
    asked = []

    def load_dataset(*names, split):
        asked.append((*names, split))
        return dataset

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    pool = Pool("nobody-here/fine/doc")
    assert len(pool.open()) == shards.ROWS
    assert pool.identity() == {"pool": {"dataset": dataset._fingerprint}}
    assert set(asked) == {("nobody-here/fine", "doc", "train")}


def test_the_attempts_of_the_hub_s_client_are_not_told(monkeypatch, caplog):
    def load_dataset(*names, split):
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(PoolError, match=r"pool\.path=nobody/there: .*Couldn't reach the Hub"):
        Pool(path="nobody/there").open()
    assert "Retrying" not in caplog.text
    logging.getLogger("huggingface_hub.utils._http").warning("as before")
    assert "as before" in caplog.text


def in_cache_of_hub(folder: Path, cache: Path) -> None:
    """`nobody-here/fine`, configuration `chart`, splits train and test, as `datasets` caches it."""
    files = sorted(map(str, folder.glob("*.parquet")))
    builder = datasets.load_dataset_builder(
        "parquet", name="chart", data_files=dict(zip(("train", "test"), files, strict=True)),
        cache_dir=str(cache / "made"),
    )  # fmt: skip
    builder.download_and_prepare()
    place = cache / "nobody-here___fine" / "chart" / "0.0.0" / "c0ffee"
    shutil.copytree(builder.cache_dir, place)
    for file in place.glob("*.arrow"):
        file.rename(place / file.name.replace("parquet-", "fine-"))


def test_the_hub_s_own_layout_in_the_cache_is_read_without_a_network(folder, tmp_path, monkeypatch):
    """By the hub's client itself: owner and name, configuration, split."""
    in_cache_of_hub(folder, tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    train = Pool(path="nobody-here/fine/chart")
    test = Pool(path="nobody-here/fine/chart", split="test")
    whole = content(Pool(str(folder)))
    assert content(train) + content(test) == whole
    assert train.identity() != test.identity()
    with pytest.raises(PoolError, match=r"pool\.path=nobody-here/fine/tables: no such file .*hub"):
        Pool(path="nobody-here/fine/tables").open()
    with pytest.raises(PoolError, match=r'split "?dev"?.*; give a path, or .* with pool\.split'):
        Pool(path="nobody-here/fine/chart", split="dev").open()
    with pytest.raises(PoolError, match=r"pool\.path=nobody-here/lost: no such file"):
        Pool(path="nobody-here/lost").open()


def test_what_is_no_dataset_is_named(folder, tmp_path):
    with pytest.raises(PoolError, match="has no files of split 'dev'; there are"):
        Pool(str(folder), split="dev").open()
    (tmp_path / "empty").mkdir()
    with pytest.raises(PoolError, match=r"empty: no \.parquet or \.arrow files"):
        Pool(str(tmp_path / "empty")).open()
    (tmp_path / "cut.parquet").write_bytes(next(folder.glob("*.parquet")).read_bytes()[:-40])
    with pytest.raises(PoolError, match=r"cut\.parquet: .*; fetch the file again"):
        Pool(str(tmp_path / "cut.parquet")).open()
    with pytest.raises(PoolError, match="was given by another process"):
        Pool("dataset:0123").open()
    with pytest.raises(ValueError, match="are two pools"):
        Pool("a", path="b")


@pytest.mark.parametrize("keep", [0, 3, 40, -1, -9, -40])
def test_a_shard_that_is_not_whole_is_named_before_its_rows_are_read(folder, tmp_path, keep):
    """The identity of a pool, which the key of every result needs, reads its footers first."""
    shard = tmp_path / "train.parquet"
    shard.write_bytes(next(folder.glob("*.parquet")).read_bytes()[:keep])
    with pytest.raises(PoolError, match=r"train\.parquet: is not a whole .*; fetch the file again"):
        Pool(str(tmp_path)).identity()
    shard.write_bytes(b"<html>moved</html>")
    with pytest.raises(PoolError, match=r"train\.parquet: is not a whole .*; fetch the file again"):
        Pool(str(tmp_path)).identity()


def test_the_identity_is_of_footers_not_of_bytes(folder, tmp_path):
    other = shards.write(tmp_path / "fine", lambda row: shards.record(row) | {"source": "x"})
    same = shards.write(tmp_path / "again" / "fine")
    identity = Pool(str(folder)).identity()
    assert list(identity["pool"]) == ["shards"]
    assert Pool(str(same)).identity() == identity
    assert Pool(str(other)).identity() != identity
    assert Pool(str(folder)).open().identity() == identity["pool"]["shards"]
    with pytest.raises(PoolError, match="the configuration expects 0"):
        Pool(str(folder), sha256="0").open()


def test_opening_reads_no_picture(folder, monkeypatch):
    """Row groups are read without the column of bytes; a picture reads its own group alone."""
    read = []
    original = pyarrow.parquet.ParquetFile.read_row_group

    def reading(self, number, columns):
        read.append(list(columns))
        return original(self, number, columns=columns)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "read_row_group", reading)
    rows = huggingface.read(folder, folder)
    assert not any("images" in columns for columns in read)
    assert not any(column.endswith(".bytes") for columns in read for column in columns)
    read.clear()
    rows.images_of(1)
    assert read == [["images"]]


def test_pictures_may_be_files_that_shards_name(toy: Toy, tmp_path):
    table = pyarrow.table(
        {
            "image": [{"bytes": None, "path": picture_name(n)} for n in (4, 5, 4)],
            "conversations": [
                [{"from": "human", "value": f"<image>\n{n}?"}, {"from": "gpt", "value": "yes"}]
                for n in range(3)
            ],
            "data_source": ["a", "b", "a"],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "pool.parquet")
    pool = Pool(str(tmp_path / "pool.parquet"), str(toy.folder / "images"))
    rows = pool.open()
    assert rows.picture_names == sorted({picture_name(4), picture_name(5)})
    assert rows.all_in_files
    assert rows.images_of(2) == [toy.folder / "images" / picture_name(4)]
    assert rows.sources.tolist() == ["a", "b", "a"]
    folder = Store(str(tmp_path / "store")).get(Subset(Ranking(pool, Random()), rows=3))
    written = json.loads((folder / "instructions.json").read_text())
    assert [record["image"] for record in written] == [picture_name(n) for n in (4, 5, 4)]


def test_a_subset_is_a_dataset(folder, dataset, tmp_path):
    store = Store(str(tmp_path / "store"))
    for pool in (Pool(str(folder)), Pool.from_dataset(dataset)):
        subset = Subset(Ranking(pool, Random()), rows=4)
        chosen = subset.chosen(store)
        selected = subset.dataset(store)
        assert [row["texts"] for row in selected] == [shards.record(row)["texts"] for row in chosen]
        assert not (store.get(subset) / "instructions.json").exists()  # its images are no files
        manifest = json.loads((store.get(subset) / "manifest.json").read_text())
        assert manifest["sha256_of_pool"] == pool.open().identity()


def test_a_subset_of_json_is_a_dataset_of_messages(toy: Toy):
    selected = toy.subset().dataset(toy.store)
    rows = toy.pool.open()
    for row, record in zip(toy.subset().chosen(toy.store).tolist(), selected, strict=True):
        assert [turn["content"] for turn in record["messages"]] == [
            turn.written() for turn in rows.turns(row)
        ]
        assert len(record["images"]) == len(rows.shown[row])


@pytest.fixture
def faulty(tmp_path) -> Path:
    """Row 4 has a web page for a picture, row 6 a placeholder too few."""

    def record(row: int) -> dict:
        made = copy.deepcopy(shards.record(row))
        if row == 4:
            made["images"][0]["bytes"] = b"<html>"
        if row == 6:
            made["texts"][0]["user"] = "What is <image>?"
        return made

    return shards.write(tmp_path / "faulty", record)


def test_rows_that_cannot_be_used_are_left_out_and_listed(faulty, tmp_path):
    store, whole = Store(str(tmp_path / "store")), content(Pool(str(shards.write(tmp_path / "ok"))))
    pool = Pool(str(faulty), invalid="skip")
    rows = pool.open(store)
    left = [row for row in ROWS if row not in (4, 6)]
    assert [rows.images_of(place) for place in range(len(left))] == [whole[row][1] for row in left]
    assert [rows.turns(place) for place in range(len(left))] == [whole[row][0] for row in left]
    skipped = pyarrow.parquet.read_table(store.get(pool.valid_rows) / "skipped.parquet").to_pylist()
    assert [(fault["row"], fault["kind"]) for fault in skipped] == [
        (4, "not an image"),
        (6, "number of placeholders"),
    ]
    subset = Subset(Ranking(pool, Random()), rows=3)
    manifest = json.loads((store.get(subset) / "manifest.json").read_text())
    assert manifest["skipped"]["rows"] == 2
    file_rows = np.array(left)[subset.chosen(store)]
    texts = [shards.record(int(row))["texts"] for row in file_rows]
    assert [row["texts"] for row in subset.dataset(store)] == texts


def test_the_doctor_writes_a_cleaned_pool(faulty, tmp_path):
    store, clean = Store(str(tmp_path / "store")), tmp_path / "clean"
    findings = list(check_pool(Pool(str(faulty)), store, decode=True, write=str(clean)))
    assert any("9 of 11 rows are in" in finding.message for finding in findings)
    left_out = [json.loads(line) for line in (clean / "left_out.jsonl").read_text().splitlines()]
    assert [fault["row"] for fault in left_out] == [4, 6]
    rows = Pool(str(clean)).open()
    assert [rows[row] for row in range(9)] == [shards.record(r) for r in ROWS if r not in (4, 6)]
    assert all(f.level != "FAIL" for f in check_pool(Pool(str(clean)), store, decode=True))
    with pytest.raises(FileExistsError, match=r"doctor\.write=.*clean: this folder is not empty"):
        list(check_pool(Pool(str(faulty)), store, decode=True, write=str(clean)))


def test_attention_ranks_a_dataset_of_several_images(compose, toy: Toy, folder, tmp_path):
    """Towers, proxy, attention and clusters of rows with none, one, two and three pictures."""
    sizes = [size for size in toy.overrides() if not size.startswith(("pool.", "store."))]
    cfg = compose(
        *sizes, f"pool.path={folder}", f"store.root={tmp_path / 'store'}", "selector=xmas",
        "clusters.trajectories.k=3", "subset.fraction=null", "subset.rows=6",
    )  # fmt: skip
    subset, store = build(cfg.subset), build(cfg.store)
    assert len(subset.chosen(store)) == 6
    trajectories = subset.ranking.selector.trajectories
    values = np.load(store.get(trajectories) / "values.npy")
    has_value = np.isfinite(values).all(axis=(1, 2))
    assert has_value.tolist() == [count > 0 for count in shards.IMAGES]
