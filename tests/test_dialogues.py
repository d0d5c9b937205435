"""Records as trainers write them: the same turns and pictures, in whatever words and container."""

import base64
import contextlib
import gzip
import json
from pathlib import Path

import pyarrow
import pytest
import shards

from xmas.data.faults import FaultyRowsError
from xmas.data.pool import Pool
from xmas.data.records.dialogues import turns_of
from xmas.data.rows import PoolError
from xmas.data.turns import Turn

URI = "data:image/png;base64," + base64.b64encode(shards.picture(1)).decode()
ANSWER = {"role": "assistant", "content": "He."}
PART = {"type": "text", "text": "Who?"}
FORMS = {
    "llamafactory": {
        "messages": [{"role": "user", "content": "<image>Who?"}, ANSWER],
        "images": ["1.png"],
    },
    "llamafactory sharegpt": {
        "conversations": [
            {"from": "human", "value": "<image>Who?"},
            {"from": "gpt", "value": "He."},
        ],
        "images": ["1.png"],
    },
    "swift": {
        "messages": [{"role": "user", "content": "<image>Who?"}, ANSWER],
        "image": "1.png",
    },
    "swift, base64": {
        "messages": [{"role": "user", "content": "<image>Who?"}, ANSWER],
        "images": [URI],
    },
    "trl": {
        "messages": [{"role": "user", "content": [{"type": "image"}, PART]}, ANSWER],
        "images": ["1.png"],
    },
    "trl, one": {
        "messages": [{"role": "user", "content": "Who?"}, ANSWER],
        "image": "1.png",
    },
    "trl, prompt and completion": {
        "prompt": [{"role": "user", "content": "Who?"}],
        "completion": [ANSWER],
        "images": ["1.png"],
    },
    "unsloth": {
        "messages": [
            {"role": "user", "content": [PART, {"type": "image", "image": "1.png"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "He."}]},
        ],
    },
    "openai": {
        "messages": [
            {"role": "user", "content": [PART, {"type": "image_url", "image_url": {"url": URI}}]},
            ANSWER,
        ],
    },
    "qwen-vl": {
        "conversations": [
            {"from": "human", "value": "<image>\nWho?"},
            {"from": "gpt", "value": "He."},
        ],
        "image": ["1.png"],
    },
    "finevision": {"texts": [{"user": "Who?", "assistant": "He."}], "images": ["1.png"]},
}


def packed(records: list[dict], how: str) -> bytes:
    lines = "".join(f"{json.dumps(record)}\n" for record in records).encode()
    return {
        "list": lambda: json.dumps(records, indent=1).encode(),
        "lines": lambda: lines,
        "gzip": lambda: gzip.compress(lines),
        "zstd": lambda: pyarrow.compress(lines, codec="zstd", asbytes=True),
    }[how]()


@pytest.fixture
def pool_of(tmp_path: Path):
    (tmp_path / "images").mkdir()
    for number in range(4):
        (tmp_path / "images" / f"{number}.png").write_bytes(shards.picture(number))

    def write(records: list[dict], how: str = "lines", **options) -> Pool:
        (tmp_path / "pool").write_bytes(packed(records, how))
        return Pool(str(tmp_path / "pool"), str(tmp_path / "images"), **options)

    return write


def bytes_of(images: list[Path | bytes]) -> list[bytes]:
    return [image if isinstance(image, bytes) else image.read_bytes() for image in images]


@pytest.mark.parametrize("how", ["list", "lines", "gzip", "zstd"])
@pytest.mark.parametrize("name", FORMS)
def test_every_trainer_s_row_is_the_same_conversation_with_its_picture(pool_of, name, how):
    rows = pool_of([FORMS[name], FORMS[name]], how).open()
    assert rows.has_image.tolist() == [True, True]
    assert rows.turns(1) == [Turn("user", "Who?", (0,)), Turn("assistant", "He.")]
    assert bytes_of(rows.images_of(1)) == [shards.picture(1)]
    assert len(rows.picture_names) == 1
    assert rows[1] == FORMS[name]  # as the file has it


def test_rows_in_another_format_of_the_same_file_are_named(pool_of):
    pool = pool_of([FORMS["llamafactory"]], format="llava")
    with pytest.raises(PoolError, match=r"row 0: .*`conversations` is None, expected a list"):
        pool.open()


def test_several_images_are_where_their_placeholders_are(pool_of):
    said = [{"role": "user", "content": "Is <image> <image>?"}, ANSWER]
    more = [{"role": "user", "content": "And\n<image>"}, {"role": "assistant", "content": "No."}]
    rows = pool_of([{"messages": [*said, *more], "images": ["3.png", "1.png", "3.png"]}]).open()
    assert [turn.images for turn in rows.turns(0)] == [(3, 4), (), (4,), ()]
    assert rows.turns(0)[0].written() == "Is <image> <image>?"
    assert rows.conversation(0) == [("Is  ?", "He."), ("And\n", "No.")]
    assert rows.shown[0].tolist() == [1, 0, 1]
    assert bytes_of(rows.images_of(0)) == [shards.picture(number) for number in (3, 1, 3)]


def test_a_line_break_after_opening_images_is_the_template_s():
    record = {"messages": [{"role": "user", "content": "<image><image>\nWhich?"}, ANSWER]}
    first, _ = turns_of(record | {"images": ["a", "b"]})
    assert first == Turn("user", "Which?", (0, 0))
    assert first.written() == "<image><image>\nWhich?"


def test_a_system_turn_is_kept(pool_of):
    record = FORMS["swift"] | {
        "messages": [{"role": "system", "content": "Be brief."}, *FORMS["swift"]["messages"]]
    }
    rows = pool_of([record]).open()
    assert rows.turns(0)[0] == Turn("system", "Be brief.")
    assert rows.conversation(0) == [("Who?", "He.")]


MALFORMED = {
    "a part of video": (
        {"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}, ANSWER]},
        r"turn 0 has a part .*, which no model here takes; .*frames",
    ),
    "a URL in a part": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": "https://a.b/c.png"}]},
                ANSWER,
            ]
        },
        "a URL; download it",
    ),
    "fewer placeholders": (
        {"messages": [{"role": "user", "content": "<image>?"}, ANSWER], "images": ["a", "b"]},
        r"1 <image> for 2 images, expected exactly 2",
    ),
    "a placeholder and no image": (
        {"messages": [{"role": "user", "content": "See <image>?"}, ANSWER]},
        "has an <image> and no `image`",
    ),
    "an image under another name": (
        {"messages": [{"role": "user", "content": "Who?"}, ANSWER], "shot": ["a/b.JPG"]},
        r"has `shot` \['a/b\.JPG'\] and no `image`.*pool\.columns=\{images: shot\}",
    ),
    "a tool": (
        {"messages": [{"role": "tool", "content": "x"}, ANSWER]},
        "turn 0 is from 'tool', expected 'user' or 'assistant'",
    ),
    "half a pair": ({"texts": [{"user": "Who?"}]}, r"pair 0 of `texts` is \{'user': 'Who\?'\}"),
    "no completion": ({"prompt": "Who?", "completion": ""}, "`completion` is '', expected a text"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_row_that_cannot_be_read_is_named(pool_of, name):
    record, message = MALFORMED[name]
    with pytest.raises(FaultyRowsError, match=rf"pool: row 1:? .*{message}"):
        pool_of([FORMS["swift"], record]).open()


def test_columns_have_other_names_where_it_is_said(pool_of):
    record = {"photos": ["2.png"], "talk": FORMS["trl, one"]["messages"], "messages": []}
    pool = pool_of([record], columns={"images": "photos", "messages": "talk"})
    assert bytes_of(pool.open().images_of(0)) == [shards.picture(2)]
    assert pool.identity()["columns"] == {"images": "photos", "messages": "talk"}


def test_base64_that_is_none_is_an_image_that_cannot_be_used(pool_of):
    record = FORMS["swift"] | {"image": "data:image/png;base64,%%%"}
    rows = pool_of([record]).open()
    with pytest.raises(ValueError, match=r"image data:.*is a data URI that cannot be decoded"):
        rows.images_of(0)


def test_a_compressed_file_that_is_cut_short_is_named(pool_of, tmp_path):
    pool = pool_of([FORMS["swift"]] * 50, "gzip")
    Path(pool.annotations).write_bytes(Path(pool.annotations).read_bytes()[:-12])
    with pytest.raises(PoolError, match=r"pool: cannot be unpacked .*; fetch it again"):
        pool.open()


def test_a_damaged_byte_of_a_compressed_file_is_named_wherever_it_is(pool_of):
    pool = pool_of([FORMS["swift"] | {"id": str(number)} for number in range(50)], "gzip")
    file = Path(pool.annotations)
    whole = file.read_bytes()
    for place in range(10, len(whole), 7):  # a header of gzip has ten bytes, a time among them
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with pytest.raises(PoolError, match=r"pool: cannot be unpacked .*; fetch it again"):
            pool.open()
    zstd = Path(pool_of([FORMS["swift"]] * 50, "zstd").annotations)
    whole = zstd.read_bytes()
    for place in range(4, len(whole), 7):  # it may have no checksum
        zstd.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with contextlib.suppress(PoolError):
            pool.open()
