"""Open a file that may be compressed with gzip or zstd, told by its first bytes."""

import gzip
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

from xmas.data.rows import PoolError

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
DAMAGED = (OSError, EOFError, zlib.error)  # what unpacking raises; the last is none of the others


def unpacked(path: Path) -> BinaryIO:
    """The content of a file, to be read at any place.

    A compressed one is unpacked once into a temporary file without a name, which needs that much
    disk in TMPDIR and is gone when it is closed.

    Raises:
        PoolError: no such file, or damaged; zstd needs pyarrow.
    """
    file = _opened(path)
    head = file.read(len(ZSTD))
    file.seek(0)
    if not head.startswith((GZIP, ZSTD)):
        return file
    content = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - the caller closes it
    with file:
        try:
            shutil.copyfileobj(_stream(path, file, head), content, 1 << 20)
        except DAMAGED as error:
            content.close()
            raise PoolError(
                f"{path}: cannot be unpacked ({error}); fetch it again, or free space in TMPDIR"
            ) from error
    content.seek(0)
    return content


def first_bytes(path: Path, count: int) -> bytes:
    """The first bytes of a file's content, `count` at most; b"" for a folder or a missing file."""
    if not path.is_file():
        return b""
    with _opened(path) as file:
        head = file.read(len(ZSTD))
        file.seek(0)
        if not head.startswith((GZIP, ZSTD)):
            return file.read(count)
        try:
            return _stream(path, file, head).read(count)
        except DAMAGED:
            return b""  # the reader that opens it says what is wrong


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise PoolError(f"{path}: {error.strerror}; give the path of a pool") from error


def _stream(path: Path, file: BinaryIO, head: bytes) -> Any:
    if head.startswith(GZIP):
        return gzip.GzipFile(fileobj=file)
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise PoolError(
            f"{path}: is compressed with zstd; unpack it with `zstd -d`, or install pyarrow: "
            "pip install 'xmas[parquet]'"
        ) from error
    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file), "zstd")
