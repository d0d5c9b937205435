"""Image files that nobody has vouched for: refused before they are decoded, with a remedy."""

import dataclasses
import io
import json
import os
import re
import struct
import threading
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from toy import draw, turns

from xmas.data.images.bounds import FORMATS, _InFlight, bounded
from xmas.data.images.broken import read_picture
from xmas.data.images.files import image_size, open_image
from xmas.data.images.paths import ImageError
from xmas.data.images.pixels import SquareImages, prepared
from xmas.data.near_copies.image_hashes import ImageHashes
from xmas.data.pool import Pool
from xmas.data.rows import PoolError
from xmas.doctor.files import check_pool
from xmas.evaluation import benchmarks
from xmas.evaluation.json_files import image_below
from xmas.evaluation.protocol import AnswerError
from xmas.models.checked_images import CheckedImages
from xmas.store import Store


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header says this size; its pixels would be decoded to zeros."""

    def chunk(name: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def encoded(name: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 3), "teal").save(file, name)
    return file.getvalue()


@pytest.mark.parametrize("read", [open_image, image_size])
def test_a_file_that_would_unpack_to_too_many_pixels_is_refused_by_its_header(tmp_path, read):
    path = tmp_path / "map.png"
    path.write_bytes(png_of(14000, 14001))
    with pytest.raises(
        ValueError,
        match=rf"image {path}: 14000 x 14001 pixels, more than pool\.max_pixels=178956970; shrink "
        r"the file, remove its rows, or raise pool\.max_pixels",
    ):
        read(path)
    with pytest.raises(ValueError, match=r"more than pool\.max_pixels=14"):
        read(encoded("PNG"), 14)
    assert read(encoded("PNG"), 15)


def test_the_pool_s_limit_holds_and_not_pillow_s_for_the_whole_process():
    assert image_size(png_of(60000, 70000), 60000 * 70000) == (70000, 60000)


@pytest.mark.parametrize("name", FORMATS)
def test_the_formats_of_the_list_are_read(name):
    Image.init()
    if name not in Image.SAVE:
        pytest.skip("no AVIF before Pillow 11.3")
    assert open_image(encoded(name)).size == (5, 3)
    assert image_size(encoded(name)) == (3, 5)


@pytest.mark.parametrize("name", ["EPS", "SGI", "PCX", "TGA", "JPEG2000"])
def test_other_formats_are_refused_though_pillow_would_read_them(name, tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(encoded(name))
    with Image.open(path) as picture:
        assert picture.format == name
    with pytest.raises(ValueError, match=r"image.png: cannot identify image file: .* JPEG, PNG"):
        open_image(path)


def test_a_fifo_and_a_device_are_refused_at_once(tmp_path):
    fifo = tmp_path / "fifo.png"
    os.mkfifo(fifo)  # opening it would wait for a writer
    with pytest.raises(ValueError, match=r"fifo.png: is a FIFO, expected a regular file; replace"):
        open_image(fifo)
    with pytest.raises(ValueError, match="image /dev/zero: is a device"):
        image_size(Path("/dev/zero"))


def test_a_file_with_more_bytes_than_any_such_image_has_is_not_read(tmp_path):
    path = tmp_path / "long.png"
    path.write_bytes(encoded("PNG"))
    os.truncate(path, 8 * 100 + 1)
    with pytest.raises(ImageError, match=r"801 bytes, more than 8 a pixel of .*=100"):
        bounded(path, 100).__enter__()
    assert image_size(path, 101) == (3, 5)


def test_the_limit_of_a_pool_reaches_its_rows(toy):
    rows = Pool(str(toy.pool.annotations), str(toy.pool.images), max_pixels=1023).open()
    assert rows.max_pixels == 1023
    assert toy.pool.open().max_pixels == 178956970
    assert toy.pool.identity() == Pool(str(toy.pool.annotations), ".", max_pixels=9).identity()


def test_threads_decode_only_so_many_pixels_at_a_time():
    """Of four images of 40 pixels two are decoded at a time; one of 500 is decoded alone."""
    in_flight, sizes = _InFlight(100), [40, 40, 40, 40, 500]
    present, most, lock = [], [], threading.Lock()
    barrier = threading.Barrier(len(sizes))

    def decode(pixels: int) -> None:
        barrier.wait()
        with in_flight.reserve(pixels):
            with lock:
                present.append(pixels)
                most.append(sorted(present))
            threading.Event().wait(0.01)
            with lock:
                present.remove(pixels)

    threads = [threading.Thread(target=decode, args=(pixels,)) for pixels in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(most) == 5
    assert {tuple(pixels) for pixels in most} <= {(40,), (40, 40), (500,)}
    assert (500,) in map(tuple, most)


def pool_naming(tmp_path: Path, *names: str, **options) -> Pool:
    """A pool of images in `tmp_path/images`, next to a file that is none of its business."""
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True, exist_ok=True)
    for place in (folder / "a" / "1.png", folder / "2.png", tmp_path / "private.png"):
        place.write_bytes(encoded("PNG"))
    records = [{"image": name, "conversations": turns("<image>", "b")} for name in names]
    (tmp_path / "mix.json").write_text(json.dumps(records))
    return Pool(str(tmp_path / "mix.json"), str(folder), **options)


@pytest.fixture(
    params=["..", "deep", "absolute", "link", "linked folder", "sibling", "link, then .."]
)
def escape(request, tmp_path) -> str:
    """A name that leads from `tmp_path/images` to a private file."""
    folder, private = tmp_path / "images", tmp_path / "private.png"
    folder.mkdir()
    if request.param == "link":
        (folder / "link.png").symlink_to(private)
    if request.param == "link, then ..":
        (folder / "up").symlink_to("..")
    if request.param == "linked folder":
        (folder / "linked").symlink_to(tmp_path)
    if request.param == "sibling":  # its path begins as the folder's
        (tmp_path / "images2").mkdir()
        (tmp_path / "images2" / "x.png").write_bytes(encoded("PNG"))
    return {
        "..": "../private.png",
        "deep": "a/../a/../../private.png",
        "absolute": str(private),
        "link": "link.png",
        "linked folder": "linked/private.png",
        "sibling": "../images2/x.png",
        "link, then ..": "up/images/../private.png",  # without links, images/private.png
    }[request.param]


def test_an_image_outside_the_folder_is_refused_wherever_it_is_read(tmp_path, escape):
    pool = pool_naming(tmp_path, "a/1.png", escape)
    rows, store = pool.open(), Store(str(tmp_path / "store"))
    leads = rf"image {re.escape(escape)}: leads to .*\.png, outside .*images; move .*outside=true"
    with pytest.raises(ValueError, match=leads):
        rows.images_of(1)[0]
    with pytest.raises(PoolError, match=rf"mix\.json: row 1: {leads}"):
        read_picture(rows, int(rows.shown.first[1]), 1)
    with pytest.raises(PoolError, match=rf"row 1.*{leads}"):
        store.get(CheckedImages(pool))
    with pytest.raises(ValueError, match=leads):
        store.get(ImageHashes(pool))
    for decode in (True, False):
        (fault,) = [
            finding for finding in check_pool(pool, store, decode=decode) if finding.level == "FAIL"
        ]
        assert "outside the image folder: 1" in fault.message
    assert rows.images_of(0)[0] == tmp_path / "images" / "a" / "1.png"


def test_it_is_read_where_the_user_says_so(tmp_path, escape):
    pool = pool_naming(tmp_path, "a/1.png", escape, outside=True)
    rows = pool.open()
    assert read_picture(rows, int(rows.shown.first[1])).size == (5, 3)
    assert Store(str(tmp_path / "store")).get(CheckedImages(pool)).exists()
    assert pool.identity() == dataclasses.replace(pool, outside=False).identity()


def test_absolute_and_dotted_names_of_images_in_the_folder_are_inside(tmp_path):
    """Also where the folder itself is reached by a link, as image folders mostly are."""
    (tmp_path / "link").symlink_to(tmp_path / "images")
    absolute = str(tmp_path / "images" / "2.png")
    names = [absolute, "./2.png", "a/../2.png", "a//1.png", str(tmp_path / "link" / "a" / "1.png")]
    pool = pool_naming(tmp_path, *names)
    for images in (tmp_path / "images", tmp_path / "link"):
        rows = dataclasses.replace(pool, images=str(images)).open()
        assert [read_picture(rows, int(rows.shown.first[row]), row).size for row in range(5)] == [
            (5, 3)
        ] * 5


def test_a_question_s_image_is_below_the_benchmark_s_folder(tmp_path, escape):
    pool_naming(tmp_path)
    images = tmp_path / "images"
    assert image_below(images, "a/1.png") == images / "a" / "1.png"
    with pytest.raises(
        ValueError, match=rf"image {re.escape(escape)}: leads to .*, outside .*images"
    ):
        image_below(images, escape)
    with pytest.raises(AnswerError, match=r"image 17: expected a path, relative to .*images"):
        image_below(images, 17)
    with pytest.raises(AnswerError, match=r"image \['a', 'b'\]: a question of several"):
        image_below(images, ["a", "b"])


def test_every_benchmark_reads_only_images_below_its_folder():
    """A question's image comes from `image_below`, or is in the question file itself."""
    sources = [path.read_text() for path in Path(benchmarks.__path__[0]).glob("*.py")]
    assert sum("image_below(" in text for text in sources) >= 9
    assert not [text for text in sources if re.search(r"images? / ", text)]


def test_large_images_are_prepared_a_few_at_a_time():
    alive, most = [0], [0]

    class Large(Image.Image):
        width = height = 3000

        def __init__(self):
            alive[0] += 1
            most[0] = max(most[0], alive[0])

        def __del__(self):
            alive[0] -= 1

    class Sums:
        def pictures(self, images):
            return {"pixels": torch.ones(len(images), 1)}

        def save(self, folder):
            raise NotImplementedError

    values = prepared(Sums(), (Large() for _ in range(11)))
    assert values["pixels"].shape == (11, 1)
    assert most[0] <= 4


def test_images_prepared_in_parts_are_those_prepared_together(monkeypatch):
    monkeypatch.setattr("xmas.data.images.pixels._TOGETHER", 3000)
    pictures = [draw(number) for number in range(9)]
    processor = SquareImages(32)
    parts = prepared(processor, iter(pictures))["pixels"]
    torch.testing.assert_close(parts, processor.pictures(pictures)["pixels"], rtol=0, atol=0)
