"""Which rows of a table are a usual conversation without a fault for sure, column by column.

The same as `xmas.data.records.record_faults` finds for a record, in Arrow's and NumPy's operations;
what they cannot tell counts as unusual.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from xmas.data.indexes.names import Names, offsets_of
from xmas.data.records.dialogues import ROLES
from xmas.data.records.identity import NO_FOLDER, TEXT
from xmas.data.records.record_faults import IMAGE_SUFFIXES, OTHER_KEYS, OTHER_MEDIA, UNREAD
from xmas.data.tables.image_columns import NAMES
from xmas.data.tables.table import functions
from xmas.data.turns import ASSISTANT, IMAGE_PLACEHOLDER, SYSTEM, USER

_TURNS = ("conversations", "messages", "texts", "prompt", "completion")
_SPEAKERS = (USER, ASSISTANT, SYSTEM)  # in turn, then who may come first
_FILE = "(?i)(" + "|".join(suffix.replace(".", r"\.") for suffix in IMAGE_SUFFIXES) + ")$"


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The images of consecutive rows, row after row.

    Attributes:
        counts: images of every row.
        stored: whether an image is in the shards.
        paths: an Arrow array of the paths of those that are files.
        usual: whether an image has bytes or a plain path.
        first: the number of the first row.
    """

    counts: Int[np.ndarray, " rows"]
    stored: Bool[np.ndarray, " images"]
    paths: Any
    usual: Bool[np.ndarray, " images"]
    first: int

    def names(self) -> Names:
        """Their identities; see `image_columns.name_in_table`."""
        import pyarrow

        pc = functions()

        row = np.repeat(np.arange(len(self.counts)), self.counts)
        place = np.arange(len(row)) - offsets_of(self.counts)[row]
        numbers = [pyarrow.array(part).cast(pyarrow.string()) for part in (row + self.first, place)]
        places = pc.binary_join_element_wise(*numbers, ":")
        return _names(pc.if_else(pyarrow.array(self.stored), places, self.paths))

    def folders(self, folder_of: Callable[[str], str]) -> Any:
        """The first folder of every row's first image that is a file; TEXT without one.

        Args:
            folder_of: gives that of a path which is not normalised.
        """
        import pyarrow

        pc = functions()

        offsets = offsets_of(self.counts)
        files = np.append(np.flatnonzero(~self.stored), len(self.stored))
        first = files[np.searchsorted(files, offsets[:-1])]
        pictured = first < offsets[1:]
        paths = self.paths.take(first[pictured])
        parts = pc.list_element(pc.split_pattern(paths, "/", max_splits=1), 0)
        folders = pc.if_else(pc.match_substring(paths, "/"), parts, NO_FOLDER)
        rough = pc.match_substring_regex(paths, r"^/|//|\./").to_numpy(zero_copy_only=False)
        if rough.any():
            by_hand = [folder_of(path) for path in paths.filter(rough).to_pylist()]
            folders = pc.replace_with_mask(folders, rough, pyarrow.array(by_hand))
        every = pyarrow.array([TEXT]).take(np.zeros(len(self.counts), dtype=np.int64))
        return pc.replace_with_mask(every, pictured, folders)


def pictures_of(arrays: Mapping[str, Any], rows: int, first: int) -> Pictures | None:
    """The images of rows by their columns, see `marked_images`; None: they are to be read one by
    one.
    """
    import pyarrow

    pc = functions()

    columns = [arrays[name] for name in NAMES if name in arrays]
    if not columns:
        none = np.zeros(0, dtype=bool)
        empty = pyarrow.array([], pyarrow.string())
        return Pictures(np.zeros(rows, dtype=np.int64), none, empty, none, first)
    if len(columns) > 1:
        return None
    counts, images = _listed(columns[0])
    stored = np.zeros(len(images), dtype=bool)
    if pyarrow.types.is_struct(images.type):
        stored = _bools(pc.struct_field(images, "bytes"))
        images = pc.struct_field(images, "path")
    if not is_text(images):
        return None
    images = images.fill_null("")
    plain = pc.and_not(pc.greater(pc.binary_length(images), 0), pc.match_substring(images, ":"))
    return Pictures(counts, stored, images, stored | _bools(plain), first)


def usual_rows(arrays: Mapping[str, Any], pictures: Pictures) -> Bool[np.ndarray, " rows"]:
    """Whether a row is a conversation without a fault, for sure."""
    pc = functions()

    rows = len(pictures.counts)
    names = [name for name in _TURNS if name in arrays]
    speeches = _speeches(arrays[names[0]], names[0]) if len(names) == 1 else None
    if speeches is None:
        return np.zeros(rows, dtype=bool)
    usual, placeholders = speeches
    usual &= (placeholders == pictures.counts) | (placeholders == 0)
    usual &= _sums(~pictures.usual, pictures.counts) == 0
    if (pictures.counts == 0).any():
        unread = np.zeros(rows, dtype=bool)
        for name in arrays.keys() - {*UNREAD, *NAMES, *names}:
            unread |= (
                _bools(pc.is_valid(arrays[name]))
                if name in OTHER_KEYS
                else _like_images(arrays[name])
            )
        usual &= (pictures.counts > 0) | ~unread
    for name in arrays.keys() & set(OTHER_MEDIA):
        usual &= ~_bools(pc.is_valid(arrays[name]))
    return usual


def is_text(array: Any) -> bool:
    """Whether an Arrow array has texts."""
    import pyarrow

    return pyarrow.types.is_string(array.type) or pyarrow.types.is_large_string(array.type)


def _speeches(
    turns: Any, name: str
) -> tuple[Bool[np.ndarray, " rows"], Int[np.ndarray, " rows"]] | None:
    """Whether the turns of a row are usual, and their number of placeholders; None: it cannot be
    told.
    """
    import pyarrow

    pc = functions()

    if not _is_list(turns) or not pyarrow.types.is_struct(turns.type.value_type):
        return None
    lengths, turns = _listed(turns)
    fields = {field.name for field in turns.type}
    if name == "texts":
        keys, texts = (), (USER, ASSISTANT)
    else:
        keys, texts = (("from",), ("value",)) if "from" in fields else (("role",), ("content",))
    if not fields.issuperset((*keys, *texts)):
        return None
    columns = [pc.struct_field(turns, text) for text in texts]
    if not all(
        is_text(column) for column in (*columns, *(pc.struct_field(turns, k) for k in keys))
    ):
        return None
    unusual = np.any([~_bools(pc.is_valid(column)) for column in columns], axis=0)
    counts = [_counts(pc.count_substring(column, IMAGE_PLACEHOLDER)) for column in columns]
    placeholders = np.sum(counts, axis=0)
    usual = lengths > 0
    if keys:
        in_turn, of_turns = _in_turn(pc.struct_field(turns, keys[0]), lengths)
        usual &= in_turn
        unusual |= ~of_turns
    usual &= _sums(unusual, lengths) == 0
    return usual, _sums(placeholders, lengths)


def _in_turn(
    roles: Any, lengths: Int[np.ndarray, " rows"]
) -> tuple[Bool[np.ndarray, " rows"], Bool[np.ndarray, " turns"]]:
    """Whether a row ends with the model's turn, and whether a turn is of the one whose turn it is.

    A system's turn may come first, then one of the model.
    """
    import pyarrow

    pc = functions()

    speaker_of = np.array([*(_SPEAKERS.index(ROLES[role]) for role in ROLES), -1])
    speakers = speaker_of[
        pc.fill_null(pc.index_in(roles, pyarrow.array(list(ROLES))), -1).to_numpy()
    ]
    starts = offsets_of(lengths)[:-1]
    skipped = np.zeros(len(lengths), dtype=np.int64)
    for early in (SYSTEM, ASSISTANT):
        speaker = np.full(len(lengths), -1)
        there = skipped < lengths
        speaker[there] = speakers[(starts + skipped)[there]]
        skipped += speaker == _SPEAKERS.index(early)
    place = np.arange(len(speakers)) - np.repeat(starts + skipped, lengths)
    rest = lengths - skipped
    return (rest > 0) & (rest % 2 == 0), (place < 0) | (speakers == place % 2)


def _like_images(array: Any) -> Bool[np.ndarray, " rows"]:
    """Where a column may name images or have some; see `record_faults.unread_images`."""
    import pyarrow

    pc = functions()

    if is_text(array):
        return _bools(pc.match_substring_regex(array, _FILE))
    if _is_list(array):
        counts, elements = _listed(array)
        return _sums(_like_images(elements), counts) > 0
    if pyarrow.types.is_struct(array.type):
        is_image = {field.name for field in array.type} == {"bytes", "path"}
        return _bools(pc.is_valid(array)) & is_image
    return np.zeros(len(array), dtype=bool)


def _is_list(array: Any) -> bool:
    import pyarrow

    kinds = pyarrow.types
    return any(is_kind(array.type) for is_kind in (kinds.is_list, kinds.is_large_list))


def _listed(array: Any) -> tuple[Int[np.ndarray, " rows"], Any]:
    """How many elements every row has, and all of them; a column without lists has one or none."""
    pc = functions()

    if _is_list(array):
        return _counts(pc.list_value_length(array)), array.flatten()
    return _bools(pc.is_valid(array)).astype(np.int64), array.drop_null()


def _sums(values: np.ndarray, lengths: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """The sum of the values of every row."""
    ends = offsets_of(values)[offsets_of(lengths)]
    return np.diff(ends)


def _bools(array: Any) -> Bool[np.ndarray, " entries"]:
    """Where an Arrow array is true; null is false."""
    return array.fill_null(False).to_numpy(zero_copy_only=False).astype(bool)


def _counts(array: Any) -> Int[np.ndarray, " entries"]:
    return array.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)


def _names(texts: Any) -> Names:
    """The texts of an Arrow array without nulls."""
    import pyarrow

    texts = texts.cast(pyarrow.large_string())
    _, ends, text = texts.buffers()
    offsets = np.frombuffer(ends, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    content = np.frombuffer(text or b"", np.uint8)[offsets[0] : offsets[-1]]
    padded = np.concatenate([content, np.zeros(8, dtype=np.uint8)])
    return Names(padded, offsets - offsets[0])
