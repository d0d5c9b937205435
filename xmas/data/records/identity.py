"""What all formats read of a record alike: the identity of its images, and its source."""

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmas.data.images.paths import ImageError
from xmas.data.records.record_faults import half_character

TEXT, NO_FOLDER = "text", "images"  # sources of rows without an image, or without a folder of it
DATA = "data:"  # begins an image that is in the record itself, in base64
SOURCES = ("source", "data_source")  # of LLaVA's records and of LLaVA-OneVision's


def renamed(record: Any, columns: Mapping[str, str]) -> Any:
    """A record under our names, `columns` having those of the file."""
    if not columns or not isinstance(record, dict):
        return record
    theirs = {name: record[column] for name, column in columns.items() if column in record}
    return {key: value for key, value in record.items() if key not in columns.values()} | theirs


def name_of(image: Any) -> str:
    """The identity of an image without fault: its path, or the hash of its bytes as text."""
    if isinstance(image, Mapping):
        image = image["path"]
    if not image.startswith(DATA):
        return image
    return DATA + hashlib.sha256(image.encode()).hexdigest()


def decoded_uri(uri: str) -> bytes:
    """The bytes of an image in a data URI. Raises ImageError: they are not in base64."""
    kind, _, content = uri.partition(",")
    try:
        if not kind.endswith(";base64"):
            raise binascii.Error("no base64")
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise ImageError(
            f"{uri[:32]}...", "image damaged", f"is a data URI that cannot be decoded ({error})"
        ) from error


def source_of(record: dict[str, Any], names: list[str], images: Path, *, llava: bool) -> str:
    """The source of a row: see `JsonRows`. Paths are compared without `.` and `..`, and an
    absolute one below the image folder is taken from there.
    """
    for key in SOURCES[:1] if llava else SOURCES:
        name = record.get(key)
        if isinstance(name, str) and half_character(name) is None:
            return name
    if not names:
        return TEXT
    path = names[0]
    if path.startswith(DATA):
        return NO_FOLDER
    if not ("//" in path or "./" in path or path.startswith("/")):
        folder, slash, _ = path.partition("/")
        return folder if slash else NO_FOLDER
    path = os.path.normpath(path)
    if os.path.isabs(path):
        path = os.path.relpath(path, os.path.abspath(images))
    folders = [part for part in path.split("/")[:-1] if part != ".."]
    return folders[0] if folders else NO_FOLDER
