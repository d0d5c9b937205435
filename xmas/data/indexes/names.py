"""Millions of short texts in two arrays, which may be memory-mapped: image names, sources."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt64

_WORD = 8  # bytes that are compared at a time
_BLOCK = 1 << 16  # texts that are copied at a time
_FIRST_BYTES = np.array([(1 << 64) - (1 << 8 * (8 - n)) for n in range(9)], dtype=np.uint64)


class Names(Sequence[str]):
    """A sequence of texts that is decoded text by text when asked for.

    >>> from xmas.data.indexes.names import Names
    >>> names = Names.of(["b", "a", "b"])
    >>> different, number = names.distinct()
    >>> list(different), number.tolist()
    (['a', 'b'], [1, 0, 1])

    Args:
        text: UTF-8 of all of them, one directly after the other, then 8 bytes that do not matter.
        offsets: where each begins in `text`, and where the last ends.
    """

    def __init__(
        self, text: UInt8[np.ndarray, " bytes_8"], offsets: Int[np.ndarray, " names_1"]
    ) -> None:
        self.text, self.offsets = text, offsets

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """Raises UnicodeEncodeError: a text has half a character."""
        encoded = [name.encode() for name in names]
        text = np.frombuffer(b"".join([*encoded, bytes(_WORD)]), dtype=np.uint8)
        return cls(text, offsets_of(list(map(len, encoded))))

    @classmethod
    def of_all(cls, parts: Sequence["Names"]) -> "Names":
        """The texts of several, one after the other."""
        text = [part.text[part.offsets[0] : part.offsets[-1]] for part in parts]
        lengths = [np.zeros(0, np.int64), *(np.diff(part.offsets) for part in parts)]
        padding = np.zeros(_WORD, dtype=np.uint8)
        return cls(np.concatenate([*text, padding]), offsets_of(np.concatenate(lengths)))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Names": ...
    def __getitem__(self, index: int | slice) -> "str | Names":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        number = range(len(self))[index]  # from the end too; raises IndexError
        return self.text[self.offsets[number] : self.offsets[number + 1]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _BLOCK):
            ends = self.offsets[start : start + _BLOCK + 1]
            text = self.text[ends[0] : ends[-1]].tobytes()
            cuts = (ends - ends[0]).tolist()
            for first, stop in itertools.pairwise(cuts):
                yield text[first:stop].decode()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # as a list

    def __repr__(self) -> str:
        return f"Names.of({list(self[:3])}{'' if len(self) <= 3 else f' and {len(self) - 3} more'})"

    def take(self, numbers: Int[np.ndarray, " taken"]) -> "Names":
        """Those at these positions, in this order."""
        lengths = np.diff(self.offsets)[numbers]
        offsets = offsets_of(lengths)
        text = np.zeros(offsets[-1] + _WORD, dtype=np.uint8)
        for start in range(0, len(numbers), _BLOCK):  # a position a byte is eight times the text
            some = slice(start, start + _BLOCK)
            ends = offsets[start : start + _BLOCK + 1]
            shift = np.repeat(self.offsets[numbers[some]] - ends[:-1], lengths[some])
            text[ends[0] : ends[-1]] = self.text[shift + np.arange(ends[0], ends[-1])]
        return Names(text, offsets)

    def starting_with(self, prefix: str) -> Bool[np.ndarray, " names"]:
        """Whether each begins with a text of at most 8 bytes."""
        letters = prefix.encode()
        assert len(letters) <= _WORD
        every = np.arange(len(self))
        shift = np.uint64(8 * (_WORD - len(letters)))
        return self._words(every, 0) >> shift == int.from_bytes(letters, "big")

    def distinct(self) -> tuple["Names", Int[np.ndarray, " names"]]:
        """The different ones in the order of their characters, and of every text its number among
        them.
        """
        order = self._order()
        numbers = np.empty(len(self), dtype=np.int64)
        is_new = self._differ(order)
        numbers[order] = np.cumsum(is_new) - 1
        return self.take(order[is_new]), numbers

    def _order(self) -> Int[np.ndarray, " names"]:
        """The order of their bytes, which is that of their characters; of equal ones the first is
        first. A radix sort: by the last eight bytes of the longest, ..., by the first eight.
        """
        lengths = np.diff(self.offsets)
        order = np.argsort(lengths, kind="stable")  # a text is before those that it begins
        for word in reversed(range(-(-int(lengths.max(initial=0)) // _WORD))):
            is_longer = lengths[order] > word * _WORD
            shorter, longer = order[~is_longer], order[is_longer]
            by_word = np.argsort(self._words(longer, word), kind="stable")
            order = np.concatenate([shorter, longer[by_word]])
        return order

    def _differ(self, order: Int[np.ndarray, " names"]) -> Bool[np.ndarray, " names"]:
        """Whether the text at each place of an order is another one than that before it."""
        lengths = np.diff(self.offsets)[order]
        differ = np.ones(len(self), dtype=bool)
        differ[1:] = lengths[1:] != lengths[:-1]
        for word in range(-(-int(lengths.max(initial=0)) // _WORD)):
            same = np.flatnonzero(~differ & (lengths > word * _WORD))
            words = self._words(order[same], word), self._words(order[same - 1], word)
            differ[same] = words[0] != words[1]
        return differ

    def _words(self, numbers: Int[np.ndarray, " some"], word: int) -> UInt64[np.ndarray, " some"]:
        """Eight bytes of some texts, each at least `word` times as long, as numbers in the order of
        the bytes; after the end of a text there are zeros.
        """
        starts = self.offsets[numbers] + word * _WORD
        lengths = np.minimum(self.offsets[numbers + 1] - starts, _WORD)
        every = np.ndarray((len(self.text) - _WORD + 1,), ">u8", self.text, strides=(1,))
        return every[starts].astype(np.uint64) & _FIRST_BYTES[lengths]


def offsets_of(lengths: Any) -> Int[np.ndarray, " lengths_1"]:
    """Where each of consecutive pieces of these lengths begins, and where the last ends."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
