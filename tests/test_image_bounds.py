"""Image files that nobody has vouched for: refused before they are decoded, with a remedy."""

import io
import os
import struct
import threading
import zlib
from pathlib import Path

import pytest
from PIL import Image

from xmas.data.image_bounds import FORMATS, RefusedImageError, _InFlight, bounded
from xmas.data.image_files import image_size, open_image
from xmas.data.pool import Pool


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
    with pytest.raises(RefusedImageError, match=r"801 bytes, more than 8 a pixel of .*=100"):
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
