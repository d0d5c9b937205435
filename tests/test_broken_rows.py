"""Pools with rows that cannot be used: all are named at once, or left out with a report."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy import ROWS, turns
from toy import record as toy_record

from xmas.data.faults import FaultyRowsError, by_kind, counted, read
from xmas.data.pool import Pool
from xmas.data.records.dialogues import images_of
from xmas.data.records.plain import plain_images
from xmas.data.records.record_faults import fault_in
from xmas.data.rows import PoolError
from xmas.data.valid_rows import ValidRows
from xmas.doctor import Doctor, DoctorError
from xmas.models.tokenizer import LONGEST, TrainedTokenizer, pieces
from xmas.selection.methods.random import Random
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import Store, key, nearest_stages
from xmas.store.feasible import check_all

ROUND = turns("<image>\nWhat?", "A fig.")
SPOKEN = turns("What?", "A fig.")


@pytest.fixture
def pool_with(tmp_path: Path):
    """Writes records to a pool whose folder has the image `a/0.png`."""
    (tmp_path / "images" / "a").mkdir(parents=True)
    Image.new("RGB", (4, 4), "navy").save(tmp_path / "images" / "a" / "0.png")

    def write(records: list[dict] | str, **options) -> Pool:
        text = records if isinstance(records, str) else json.dumps(records)
        (tmp_path / "pool.json").write_text(text)
        return Pool(str(tmp_path / "pool.json"), str(tmp_path / "images"), **options)

    return write


def good(number: int = 0) -> dict:
    return {"id": f"r{number}", "image": "a/0.png", "conversations": ROUND}


MALFORMED = {
    "under `photo`": (
        {"photo": ["a/0.png"], "conversations": ROUND},
        "with `photo` and no `image`",
        r"has `photo` \['a/0\.png'\] and no `image`.*.*columns=\{images: photo\}",
    ),
    "under `image_path`": (
        {"image_path": "a/0.png", "conversations": SPOKEN},
        "with `image_path` and no `image`",
        "has `image_path` 'a/0.png' and no `image`",
    ),
    "under `Image`": (
        {"Image": "a/0.png", "conversations": ROUND},
        "with `Image` and no `image`",
        "has `Image`",
    ),
    "a video": (
        {"video": "a/0.mp4", "conversations": turns("<video>\nWhat?", "A fig.")},
        "with `video`",
        r"has `video` 'a/0\.mp4', which no model here takes; remove the row, or give frames",
    ),
    "placeholder alone": (
        {"conversations": ROUND},
        "<image> without an image",
        "has an <image> and no `image`; add its path",
    ),
    "placeholder alone, null": (
        {"image": None, "conversations": turns("What?\n <image> ", "A fig.")},
        "<image> without an image",
        "has an <image> and no `image`",
    ),
    "no placeholder": (
        {"image": "a/0.png", "conversations": SPOKEN},
        "number of placeholders",
        r"0 <image> for one image \(a/0\.png\)",
    ),
    "a URL": (
        {"image": "https://example.org/a/0.png", "conversations": ROUND},
        "image is a URL",
        "a URL; download it",
    ),
    "role": (
        {"conversations": [{"from": "user", "value": "a"}, {"from": "gpt", "value": "b"}]},
        "unknown role",
        "turn 0 is from 'user'",
    ),
    "human last": (
        {"conversations": turns("a", "b", "c")},
        "turns out of order",
        "turns come from",
    ),
    "half a character": (
        {"conversations": turns("What?", "A smile \ud83d")},
        "half a character",
        r"turn 1 has half a character, '\\ud83d', at 8",
    ),
    "half a character in the name": (
        {"image": "a/\ud83d.png", "conversations": ROUND},
        "half a character",
        r"`image` 'a/\\ud83d\.png' has half a character, '\\ud83d', at 2",
    ),
    "a video next to an image": (
        {"image": "a/0.png", "videos": ["a/0.mp4"], "conversations": ROUND},
        "with `videos`",
        r"has `videos` \['a/0\.mp4'\], which no model here takes",
    ),
    "audio": (
        {"audios": ["a/0.wav"], "conversations": SPOKEN},
        "with `audios`",
        r"has `audios` \['a/0\.wav'\], which no model here takes",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_row_is_refused_with_its_kind_and_remedy(pool_with, name):
    record, kind, message = MALFORMED[name]
    pool = pool_with([good(), {"id": "x"} | record])
    with pytest.raises(FaultyRowsError, match=rf"pool\.json: row 1 \(id 'x'\).*{message}") as error:
        pool.open()
    assert [(fault.row, fault.id, fault.kind) for fault in error.value.faults] == [(1, "x", kind)]
    str(error.value).encode()  # can be printed


def test_rows_of_text_are_still_text(pool_with):
    """An empty name, empty lists, and a placeholder as a word of a sentence."""
    rows = pool_with(
        [
            {"image": "", "conversations": SPOKEN},
            {"images": [], "video": None, "conversations": SPOKEN},
            {"conversations": turns("What does <image> mean?", "A picture.")},
            {"conversations": turns("What does it mean?", "<image>")},
        ]
    ).open()
    assert rows.has_image.tolist() == [False] * 4
    assert rows.conversation(2) == [("What does <image> mean?", "A picture.")]


def test_all_malformed_rows_are_counted_by_kind_in_one_pass(pool_with):
    records = [MALFORMED[name][0] for name in MALFORMED] + [good()] * 3
    with pytest.raises(FaultyRowsError) as error:
        pool_with(records * 7).open()
    faults = error.value.faults
    assert by_kind(faults) == {
        "half a character": 14,
        "<image> without an image": 14,
    } | {kind: 7 for _, kind, _ in MALFORMED.values() if kind[:4] not in ("half", "<ima")}
    period = len(records)
    first = ", ".join(str(6 + period * number) for number in range(5))
    assert f"number of placeholders: 7 (rows {first} and 2 more)" in str(error.value)
    assert f"{7 * len(MALFORMED)} of {7 * period} rows are unusable" in str(error.value)
    assert counted(faults[:1]).endswith("(row 0)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"id": ' + "7" * 5000 + "}]", "row 0 has a number of thousands of digits"),
        ("[" * 100_000, "row 0 has lists or objects nested too deeply"),
        ("[{}, " + '{"a":' * 100_000, "row 1 has lists or objects nested too deeply"),
    ],
)
def test_json_that_python_does_not_read_is_named_by_row(pool_with, text, message):
    with pytest.raises(PoolError, match=rf"pool\.json: {message}.*fix or remove the row"):
        pool_with(text).open()


SOURCES = {  # image name, from the folder FOLDER: its source
    "a/0.png": "a",
    "./a/0.png": "a",
    "a/./0.png": "a",
    "a//0.png": "a",
    "b/../a/0.png": "a",
    "FOLDER/a/0.png": "a",
    "FOLDER/./a/b/0.png": "a",
    "0.png": "images",
    "./0.png": "images",
    "FOLDER/0.png": "images",
    "vg/VG_100K/0.png": "vg",
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_is_the_first_folder_below_the_images(pool_with, tmp_path, name):
    image = name.replace("FOLDER", str(tmp_path / "images"))
    rows = pool_with([good() | {"image": image}]).open()
    assert rows.sources.tolist() == [SOURCES[name]]
    assert rows.picture_names == [image]  # as the file has it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "???"}, "pool.images is not set: give the folder that image paths"),
        ({"annotations": "???"}, "pool.annotations is not set: give the path"),
        ({"annotations": ["a.json", "b.json"]}, r"expected one path. Join several.*jq -s add"),
        ({"annotations": None}, "pool.annotations=None: expected one path"),
    ],
)
def test_a_pool_without_its_paths_says_which_to_set(options, message):
    paths = {"annotations": __file__, "images": "images"} | options
    pool = Pool.__new__(Pool)  # a configuration is not checked for types
    for field, value in {**vars(Pool(__file__, "images")), **paths}.items():
        object.__setattr__(pool, field, value)
    with pytest.raises(PoolError, match=message):
        pool.open()


# --- left out ---


def broken_pool(pool_with, **options) -> Pool:
    """Rows 0, 2 and 4 can be used; 1 is malformed, 3 has a lost image, 5 one that is a web page."""
    pool = pool_with(
        [
            good(0),
            {"id": "r1", "conversations": turns("a")},
            {"id": "r2", "conversations": SPOKEN},
            good(3) | {"image": "a/3.png"},
            good(4),
            good(5) | {"image": "a/5.png"},
        ],
        **options,
    )
    (Path(str(pool.images)) / "a" / "5.png").write_text("<html>gone</html>")
    return pool


def test_invalid_rows_are_left_out_only_on_request_and_reported(pool_with, tmp_path, caplog):
    whole = broken_pool(pool_with)
    pool = broken_pool(pool_with, invalid="skip", name="mix")
    store = Store(str(tmp_path / "store"))
    with pytest.raises(PoolError, match=r"row 1 \(id 'r1'\)"):
        whole.open(store)
    with caplog.at_level(logging.WARNING, "xmas"):
        rows = pool.open(store)
    folder = store.path(ValidRows(whole))
    assert [record["id"] for record in map(rows.__getitem__, range(3))] == ["r0", "r2", "r4"]
    assert rows.raw(1) == json.dumps({"id": "r2", "conversations": SPOKEN}).encode()
    assert json.loads((folder / "rows.json").read_text()) == [0, 2, 4]
    faults = read(folder / "faults.jsonl")
    assert [(fault.row, fault.id, fault.file, fault.kind) for fault in faults] == [
        (1, "r1", None, "turns out of order"),
        (3, "r3", "a/3.png", "image missing"),
        (5, "r5", "a/5.png", "not an image"),
    ]
    assert "3 of 6 rows are left out: turns out of order: 1 (row 1); image missing" in caplog.text
    assert str(folder) in caplog.text


def test_a_pool_that_skips_is_another_pool_and_its_stage_is_declared(pool_with, tmp_path):
    whole, pool = broken_pool(pool_with), broken_pool(pool_with, invalid="skip")
    assert pool.identity() != whole.identity()
    assert pool.valid_rows == ValidRows(whole)
    assert [*nearest_stages(pool)] == [ValidRows(whole)]
    assert not pool.at_hand(Store(str(tmp_path / "store")))  # no image is decoded to find out
    ranked = Ranking(pool, Random())
    assert key(ranked) != key(Ranking(whole, Random()))
    again = broken_pool(pool_with, invalid="skip", max_pixels=10)
    assert key(Ranking(again, Random())) != key(ranked)  # other rows may be valid


def test_a_subset_counts_what_was_left_out_and_names_rows_of_the_file(pool_with, tmp_path):
    pool, store = broken_pool(pool_with, invalid="skip"), Store(str(tmp_path / "store"))
    subset = Subset(Ranking(pool, Random()), rows=2, text_only="ranked")
    folder = store.get(subset)
    chosen = subset.chosen(store)
    assert (
        json.loads((folder / "file_rows.json").read_text()) == np.array([0, 2, 4])[chosen].tolist()
    )
    kinds = {"turns out of order": 1, "image missing": 1, "not an image": 1}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["skipped"] == {"rows": 3, "of": 6, "kinds": kinds}
    assert manifest["pool_rows"] == 3


def test_a_pool_of_which_nothing_is_left_is_refused(pool_with, tmp_path):
    pool = pool_with([good() | {"image": "b.png"}], invalid="skip")
    with pytest.raises(PoolError, match=r"row 0: image .*b\.png: missing"):
        pool.open(Store(str(tmp_path / "store")))
    with pytest.raises(
        ValueError, match=r"pool\.invalid='drop' is no choice; there are error, skip"
    ):
        Pool("a", "b", invalid="drop")


# --- the doctor reads on ---


def test_the_doctor_lists_all_rows_in_a_file_and_says_where(pool_with, tmp_path):
    store = Store(str(tmp_path / "store"))
    with pytest.raises(DoctorError) as report:
        Doctor(broken_pool(pool_with), {}).make(store)
    (path,) = (tmp_path / "store" / "logs").glob("faults_*.jsonl")
    assert [fault.row for fault in read(path)] == [1, 3, 5]
    assert f"reason, are in {path}" in str(report.value)
    sum_of_kinds = str(report.value).partition(str(path))[2].splitlines()[1:4]
    assert [line.strip() for line in sum_of_kinds] == [
        "turns out of order: 1 (row 1)", "image missing: 1 (row 3)", "not an image: 1 (row 5)",
    ]  # fmt: skip
    assert "turns come from ['human']" in str(report.value)
    assert "sources and their rows: a 4, text 2" in str(report.value)
    skipping = Doctor(broken_pool(pool_with, invalid="skip"), {}).make(store)
    assert "pool.invalid=skip leaves them out, as configured" in skipping


def test_a_word_that_may_be_a_placeholder_is_a_warning(pool_with, tmp_path):
    pool = pool_with([{"conversations": turns("Is <image> here?", "No.")}] * 7)
    report = Doctor(pool, {}).make(Store(str(tmp_path / "store")))
    assert (
        "WARN  pool pool: 7 rows without an image have <image> in a question: row 0; row 1; row 2; "
        "row 3; row 4; and 2 more" in report
    )


def test_an_empty_list_is_refused_by_all_that_choose(pool_with, tmp_path):
    pool, store = pool_with("[]"), Store(str(tmp_path / "store"))
    message = r"pool\.json: the list is empty; there is nothing to choose"
    with pytest.raises(PoolError, match=message):
        check_all(Subset(Ranking(pool, Random())), store)
    with pytest.raises(DoctorError, match=message):
        Doctor(pool, {}).make(store)


def test_a_subset_of_one_row_is_that_row(pool_with, tmp_path):
    subset = Subset(Ranking(pool_with([good()]), Random()), fraction=1.0)
    assert subset.chosen(Store(str(tmp_path / "store"))).tolist() == [0]


# --- very long words ---


@pytest.mark.parametrize(
    "text",
    ["word " * 9000, "a" * (2 * LONGEST + 7), "see " + "ab" * LONGEST + " and", " " * 3 * LONGEST],
    ids=["many words", "one word", "a word among others", "spaces"],
)
def test_words_are_cut_for_training_only_where_they_are_too_long(text):
    parts = [*pieces(text)]
    assert "".join(parts) == text
    assert max(len(word) for part in parts for word in part.split(" ")) <= LONGEST
    assert (parts == [text]) == text.startswith("word")


def test_a_picture_in_base64_does_not_stop_the_tokenizer_s_training(pool_with, tmp_path):
    """Its time is the square of a word's length: 4 s at 100,000 letters, minutes at 1,000,000."""
    letters = "".join(np.random.default_rng(0).choice([*"abcdefgh+/"], 10 * LONGEST))
    tokenizer = TrainedTokenizer([pool_with([{"conversations": turns(letters, "Yes.")}])])
    texts = [*tokenizer.texts(Store(str(tmp_path / "store")))]
    assert texts[1:] == [letters[at : at + LONGEST] for at in range(0, len(letters), LONGEST)] + [
        " Yes."
    ]


def test_the_quick_look_passes_no_record_with_a_fault():
    """And gives the images that the full reading gives."""
    for record, _, _ in MALFORMED.values():
        assert plain_images(record, llava=True) is None
    passed = 0
    for row in range(ROWS):
        if (images := plain_images(toy_record(row), llava=True)) is not None:
            assert images == images_of(toy_record(row))
            assert fault_in(toy_record(row), llava=True) is None
            passed += 1
    assert passed > ROWS // 2
    named = {"id": "0.jpg", "conversations": SPOKEN}
    assert plain_images(named, llava=True) == []
    assert plain_images(named | {"shot": "0.jpg"}, llava=True) is None


def test_images_under_another_trainer_s_key_are_kept(pool_with):
    """LLaMA-Factory's documented row, which was read as one of text."""
    rows = pool_with([{"images": ["a/0.png"], "conversations": ROUND}, good()]).open()
    assert rows.has_image.tolist() == [True, True]
    assert rows.shown.first.tolist() == [0, 0]
