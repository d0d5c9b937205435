"""Reads JSON files of questions, truth and answers, and checks every row.

A missing key would otherwise show much later, as an error without a place or as a wrong score; here
it is named with file, line and value. Files have up to half a million rows: each is checked in
place, and calls and texts for messages are for the one that is refused.
"""

import json
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any

from xmas.data.images.paths import path_below
from xmas.evaluation.protocol import AnswerError, check_key
from xmas.evaluation.text_files import json_of, text_lines, text_of

_decode = json.JSONDecoder().raw_decode  # (value, where it ends), in half the time of `json.loads`


def json_lines(path: Path, *keys: str) -> list[dict[str, Any]]:
    """The objects of a JSON lines file, blank lines left out, each with at least `keys`.

    Raises AnswerError: a line is no JSON object or lacks a key; the message names file and line.
    """
    rows, required = [], set(keys)
    for number, line in text_lines(path):
        if line.isspace():
            continue
        try:
            row, end = _decode(line)
        except (ValueError, RecursionError):
            row, end = None, 0
        if line[end:] not in ("\n", ""):  # with spaces, which JSON allows, or no JSON
            row = json_of(line, f"{path}: line {number}")
        if not (isinstance(row, dict) and required <= row.keys()):
            with_keys(row, keys, f"{path}: line {number}")
        rows.append(row)
    return rows


def json_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file consists of. Raises AnswerError: the file is anything else."""
    content = json_of(text_of(path), f"{path}:")
    if not isinstance(content, dict):
        raise AnswerError(f"{path}: contains a {type(content).__name__}, expected an object")
    return content


def json_rows(path: Path, under: str | None, *keys: str) -> list[dict[str, Any]]:
    """The list that a JSON file consists of (`under` None) or has `under` a key.

    Each row has at least `keys`.

    Raises AnswerError: there is no such list, or a row lacks a key; the message names it.
    """
    rows = json_of(text_of(path), f"{path}:") if under is None else json_object(path).get(under)
    if not isinstance(rows, list):
        where = "" if under is None else f" under `{under}`"
        raise AnswerError(f"{path}: contains a {type(rows).__name__}{where}, expected a list")
    required = set(keys)
    for number, row in enumerate(rows):
        if not (isinstance(row, dict) and required <= row.keys()):
            with_keys(row, keys, f"{path}: row {number}")
    return rows


def with_keys(row: Any, keys: Iterable[str], where: str) -> dict[str, Any]:
    """`row`, if it is an object that has all `keys`. Raises AnswerError otherwise."""
    missing = [key for key in keys if not isinstance(row, dict) or key not in row]
    if missing:
        text = repr(row)
        text = text if len(text) <= 120 else text[:117] + "..."
        raise AnswerError(f"{where} has no `{missing[0]}`: {text}")
    return row


def image_below(images: Path, name: Any) -> Path:
    """The image file that a question names.

    Raises ValueError: it names several, or no path, or one outside `images`.
    """
    if isinstance(name, list):
        raise AnswerError(
            f"image {name!r:.120}: a question of several images cannot be asked; give the path of "
            "one, or leave the question out"
        )
    if not isinstance(name, str):
        raise AnswerError(f"image {name!r}: expected a path, relative to {images}")
    return path_below(
        images, name, remedy="put the file there, or set the folder that has all images"
    )


def answer_lines(
    answers: list[dict[str, Any]], benchmark: str, *, keys: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """`answers`, if each has a `question_id`, a `text` that is a string, and `keys`.

    Raises AnswerError otherwise, naming the line.
    """
    required = {"question_id", "text", *keys}
    checked: set[type] = set()
    for number, line in enumerate(answers, start=1):
        if not (isinstance(line, dict) and required <= line.keys()):
            with_keys(line, ("question_id", "text", *keys), f"{benchmark}: answer line {number}")
        if type(line["question_id"]) not in checked:
            check_key(line["question_id"], f"{benchmark}: answer line {number}: `question_id`")
            checked.add(type(line["question_id"]))
        if not isinstance(line["text"], str):
            raise AnswerError(
                f"{benchmark}: answer line {number}: `text` is {line['text']!r}, expected a string"
            )
    return answers


def by_key(
    rows: Iterable[dict[str, Any]], key_of: Callable[[dict[str, Any]], Hashable], where: Path
) -> dict[Any, dict[str, Any]]:
    """`rows` by their key, in order. Raises AnswerError: there are none, or two share a key."""
    keyed: dict[Any, dict[str, Any]] = {}
    checked: set[Hashable] = set()
    for row in rows:
        key = key_of(row)
        kind = tuple(map(type, key)) if isinstance(key, tuple) else type(key)
        if kind not in checked:
            check_key(key, str(where))
            checked.add(kind)
        if key in keyed:
            raise AnswerError(f"{where}: {key!r} is in the file twice")
        keyed[key] = row
    if not keyed:
        raise AnswerError(f"{where}: has no rows")
    return keyed
