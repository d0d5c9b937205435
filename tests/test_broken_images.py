"""Image files that cannot be used, or show nothing: named all at once, by kind; changed ones."""

import io
import json
import logging
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from toy import turns

from xmas.data.faults import FaultyRowsError, read
from xmas.data.images.broken import broken_images
from xmas.data.images.errors import ImageError
from xmas.data.images.files import image_size, open_image
from xmas.data.images.seen import note, warn_of_changes
from xmas.data.near_copies.image_hashes import ImageHashes
from xmas.data.pool import Pool
from xmas.doctor import Doctor, DoctorError
from xmas.models.checked_images import CheckedImages, checked_images
from xmas.store import Store, key

ROUND = turns("<image>\nWhat?", "A fig.")


def png(size: tuple[int, int] = (8, 6)) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


def with_profile(content: bytes, length: int) -> bytes:
    """A PNG with an ICC profile that unpacks to `length` bytes."""
    packed = b"icc\0\0" + zlib.compress(bytes(length))
    chunk = b"iCCP" + packed
    at = 8 + 25  # after the signature and the header
    size, check = len(packed).to_bytes(4, "big"), zlib.crc32(chunk).to_bytes(4, "big")
    return content[:at] + size + chunk + check + content[at:]


def bomb() -> bytes:
    """A PNG that says it has 40,000 x 40,000 pixels, and has none."""
    content = bytearray(png())
    content[16:24] = (40_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def write_file(content: bytes):
    return lambda path: path.write_bytes(content)


def dead_link(path: Path) -> None:
    path.symlink_to(path.with_name("gone.png"))


def other_case(path: Path) -> None:
    path.with_name(path.name.upper()).write_bytes(png())


def other_suffix(path: Path) -> None:
    path.with_suffix(".webp").write_bytes(png())


BROKEN = {  # how the file comes to be: (kind, reason)
    "missing": (lambda path: None, "image missing", "missing"),
    "another suffix": (other_suffix, "image missing", "missing, but 1.webp is there: rename it"),
    "another case": (other_case, "image missing", "missing, but 1.PNG is there: rename it"),
    "dead link": (dead_link, "dead link", r"is a link to .*gone\.png, which is not there"),
    "folder": (Path.mkdir, "a folder", "is a folder, expected a file"),
    "empty": (write_file(b""), "image empty", "an empty file"),
    "web page": (
        write_file(b"<html>gone</html>"),
        "not an image",
        "cannot identify image file: .*; it begins with b'<html>gone</html>'",
    ),
    "cut short": (write_file(png()[:60]), "image damaged", "."),
    "bytes changed": (write_file(png()[:50] + bytes(40)), "image damaged", "."),
    "large profile": (
        write_file(with_profile(png(), PngImagePlugin.MAX_TEXT_CHUNK + 1)),
        "image damaged",
        "Decompressed data too large",
    ),
    "bomb": (
        write_file(bomb()),
        "image too large",
        "40000 x 40000 pixels, more than pool.max_pixels=178956970; shrink the file",
    ),
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images, of which `0.png` can be used."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(png())
    return tmp_path / "images"


def pool_of(images: Path, *names: str, **options) -> Pool:
    records = [
        {"id": f"r{n}", "image": name, "conversations": ROUND} for n, name in enumerate(names)
    ]
    path = images.parent / "pool.json"
    path.write_text(json.dumps(records))
    return Pool(str(path), str(images), **options)


@pytest.mark.parametrize("name", BROKEN)
def test_every_row_of_a_broken_image_is_named_with_its_kind(images, name):
    make, kind, reason = BROKEN[name]
    make(images / "1.png")
    rows = pool_of(images, "0.png", "1.png", "1.png").open()
    faults = broken_images(rows)
    assert [(fault.row, fault.file, fault.kind) for fault in faults] == [
        (1, "1.png", kind),
        (2, "1.png", kind),
    ]
    with pytest.raises(ImageError, match=rf"image {images / '1.png'}: {reason}"):
        open_image(images / "1.png")


def test_the_size_of_a_bomb_is_refused_too(images):
    (images / "1.png").write_bytes(bomb())
    with pytest.raises(ImageError, match=r"1\.png: 40000 x 40000 pixels, more than pool.max_pix"):
        image_size(images / "1.png")
    assert image_size(images / "0.png") == (6, 8)


def test_windows_separators_are_named_with_what_is_there(images):
    (images / "a").mkdir()
    (images / "a" / "1.png").write_bytes(png())
    (fault,) = broken_images(pool_of(images, "0.png", "a\\1.png").open())
    assert fault.kind == "image missing"
    assert f"{images}/a/1.png is there: write the path with / in the annotations" in fault.reason


def test_all_broken_images_are_counted_and_listed_in_a_file(images, tmp_path):
    names = ["0.png", *(f"{n}.png" for n in range(1, 9)), "page.png"]
    (images / "page.png").write_text("<html>")
    store, pool = Store(str(tmp_path / "store")), pool_of(images, *names)
    with pytest.raises(FaultyRowsError) as error:
        store.get(CheckedImages(pool))
    message = str(error.value)
    report = store.path(CheckedImages(pool)).with_name(f".{key(CheckedImages(pool))}")
    assert f"pool.json: row 1: image {images / '1.png'}: missing; replace the file" in message
    assert "9 of 10 rows are unusable: image missing: 8 (rows 1, 2, 3, 4, 5 and 3 more)" in message
    assert "not an image: 1 (row 9)" in message
    assert f"all in {report / 'faults.jsonl'}; pool.invalid=skip leaves them out" in message
    assert [fault.row for fault in read(report / "faults.jsonl")] == [*range(1, 10)]
    for name in names:
        (images / name).write_bytes(png())
    assert not (store.get(CheckedImages(pool)) / "faults.jsonl").exists()


# --- images that show nothing ---


def wide(images: Path) -> None:
    grey = np.linspace(0, 65535, 48, dtype=np.uint16).reshape(6, 8)
    Image.fromarray(grey).save(images / "1.png")


def fractions(images: Path) -> None:
    grey = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    Image.fromarray(grey).save(images / "1.png", format="TIFF")


def drawn_in_transparency(images: Path) -> None:
    layers = np.zeros((6, 8, 4), dtype=np.uint8)
    layers[2:4, 2:4, 3] = 255
    Image.fromarray(layers).save(images / "1.png")


def opaque(images: Path) -> None:
    Image.new("RGBA", (8, 6), (9, 9, 9, 255)).save(images / "1.png")


@pytest.mark.parametrize(
    ("draw", "loss"),
    [
        (wide, "values from 0 to 65535 in mode I;16, where 0 to 255 are shown"),
        (fractions, "values from 0 to 1 in mode F, where 0 to 255 are shown"),
        (drawn_in_transparency, "all that it shows is in its transparency, which is dropped"),
        (opaque, None),
    ],
)
def test_images_that_become_flat_are_a_warning(images, tmp_path, draw, loss):
    draw(images)
    report = Doctor(pool_of(images, "0.png", "1.png"), {}).make(Store(str(tmp_path / "store")))
    warned = f"1 images lose what they show when converted to RGB: {images / '1.png'}: {loss}"
    assert (warned in report) == (loss is not None)
    assert ("lose what they show" in report) == (loss is not None)


@pytest.mark.parametrize("copies", [9, 10])
def test_one_file_under_many_names_looks_like_a_placeholder(images, tmp_path, copies):
    for number in range(copies):
        (images / f"p{number}.png").write_bytes(png((5, 5)))
    (images / "q.png").write_bytes(png((5, 5))[:-1] + b"x")  # of the same size, another file
    names = ["0.png", "q.png", *(f"p{number}.png" for number in range(copies))]
    doctor = Doctor(pool_of(images, *names), {}, images="exists")
    report = doctor.make(Store(str(tmp_path / "store")))
    assert ("10 images are one and the same file" in report) == (copies == 10)


# --- images that are others now ---


def test_another_copy_of_the_images_is_decoded_before_a_fit(images, tmp_path):
    store = Store(str(tmp_path / "store"))
    pool = pool_of(images, "0.png", "1.png")
    (images / "1.png").write_bytes(png((7, 7)))
    checked_images(pool, store)
    checked_images(pool, store)
    assert len(store.results("images")) == 1
    other = tmp_path / "of_another_host"
    other.mkdir()
    (other / "0.png").write_bytes((images / "0.png").read_bytes())
    (other / "1.png").write_bytes(png((7, 7))[:80])
    elsewhere = Pool(str(pool.annotations), str(other))
    assert key(CheckedImages(elsewhere)) == key(CheckedImages(pool))
    with pytest.raises(FaultyRowsError, match=rf"row 1: image {other / '1.png'}: "):
        checked_images(elsewhere, store)
    (other / "1.png").write_bytes(png((3, 3)))
    checked_images(elsewhere, store)
    checked_images(pool, store)  # the first copy is still known
    assert len(store.results("images")) == 2


@pytest.mark.parametrize("change", ["none", "another folder", "one is larger", "none is there"])
def test_a_result_that_was_made_from_other_images_is_warned_of(images, tmp_path, caplog, change):
    store, pool = Store(str(tmp_path / "store")), pool_of(images, "0.png")
    store.get(CheckedImages(pool))
    other = tmp_path / change
    other.mkdir()
    (other / "0.png").write_bytes(png((3, 3)) if change == "one is larger" else png())
    if change == "none is there":
        (other / "0.png").unlink()
    now = Pool(str(pool.annotations), str(images if change == "none" else other))
    with caplog.at_level(logging.WARNING, "xmas"):
        warn_of_changes(CheckedImages(now), store)
        warn_of_changes(CheckedImages(now), store)
    if change in ("none", "another folder"):  # the same files
        assert caplog.messages == []
        return
    (message,) = caplog.messages
    assert f"results were made from other images: images/{key(CheckedImages(pool))}: 1 of 1" in (
        message
    )
    assert message.endswith("'force=[images]' makes them anew")


def test_a_pool_of_text_alone_has_no_hashes_of_images(images, tmp_path):
    path = images.parent / "pool.json"
    path.write_text(json.dumps([{"conversations": turns("a", "b")}] * 3))
    folder = Store(str(tmp_path / "store")).get(ImageHashes(Pool(str(path), str(images))))
    assert np.load(folder / "sha256.npy").shape == (0, 32)


def test_the_note_of_many_images_is_a_sample(images, tmp_path):
    names = [f"{number}.png" for number in range(2500)]
    pool = pool_of(images, *names)
    note(pool, pool.open(), tmp_path)
    record = json.loads((tmp_path / "seen_images.json").read_text())
    assert record["images"] == 2500
    assert 800 <= len(record["sizes"]) <= 1000


def test_the_doctor_names_kinds_by_source(images, tmp_path):
    pool = pool_of(images, "0.png", "a/1.png", "a/2.png")
    with pytest.raises(DoctorError, match=r"2 of 2 images of a missing .*\(image missing: 2\)"):
        Doctor(pool, {}).make(Store(str(tmp_path / "store")))
