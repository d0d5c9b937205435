"""The conversations of a pool as numbers: lengths, answer formats, hashes for duplicates."""

import dataclasses
import functools
import hashlib
import re
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import UInt32

from xmas.data.pool import Pool
from xmas.store import Stage, Store
from xmas.store.progress import bar

FORMATS = ("yes_no", "letter", "number", "word", "phrase", "sentence", "long")
HASHES = 64  # min-hashes a row: a standard error of 0.05 at a similarity of 0.8
_LETTER = re.compile(r"\(?[A-Z]\)?[.:]?")
_NUMBER = re.compile(r"[-+]?[$€£]?\d[\d.,:/]*\s?%?")


def format_of(answer: str) -> str:
    """What an answer looks like: `yes_no`, `letter` (an option), `number`, one `word`, a `phrase`
    of up to five, a `sentence` of up to thirty on one line, or `long`.
    """
    stripped = answer.strip()
    if stripped.lower().rstrip(".!") in ("yes", "no"):
        return "yes_no"
    if _LETTER.fullmatch(stripped):
        return "letter"
    if _NUMBER.fullmatch(stripped):
        return "number"
    words = len(stripped.split())
    if words <= 1:
        return "word"
    if words <= 5 and not stripped.endswith((".", "!", "?")):
        return "phrase"
    return "sentence" if words <= 30 and "\n" not in stripped else "long"


def min_hashes(texts: list[str]) -> UInt32[np.ndarray, "64"]:
    """A sketch of the set of words in `texts`: the share of equal numbers in two sketches estimates
    the sets' Jaccard similarity.

    Source: Broder, "On the resemblance and containment of documents", 1997.
    """
    words = {word for text in texts for word in re.findall(r"\w+", text.lower())} or {""}
    hashes = np.fromiter((zlib.crc32(word.encode()) for word in words), np.uint64, len(words))
    factors, shifts = _functions()
    return ((hashes[:, None] * factors + shifts) >> np.uint64(32)).min(axis=0).astype(np.uint32)


@functools.cache
def _functions() -> tuple[np.ndarray, np.ndarray]:
    """Odd factors and shifts of multiply-shift hash functions: the products wrap around."""
    parameters = np.random.default_rng(0).integers(0, 1 << 64, (2, HASHES), dtype=np.uint64)
    return parameters[0] | np.uint64(1), parameters[1]


@dataclasses.dataclass(frozen=True)
class Texts(Stage):
    """`characters.npy` (rows,) int64, of questions and answers; `formats.npy` (rows, 7) int32,
    answers of every format; `digests.npy` (rows, 2) uint64, equal for equal conversations;
    `sketches.npy` (rows, 64) uint32, see `min_hashes`.
    """

    kind: ClassVar[str] = "texts"

    pool: Pool

    def compute(self, store: Store, out: Path) -> None:
        examples = self.pool.open(store)
        count = len(examples)
        characters = np.zeros(count, dtype=np.int64)
        formats = np.zeros((count, len(FORMATS)), dtype=np.int32)
        digests = np.zeros((count, 2), dtype=np.uint64)
        sketches = np.zeros((count, HASHES), dtype=np.uint32)
        for row in bar(range(count), label="texts"):
            rounds = examples.conversation(row)
            turns = [text for turn in rounds for text in turn]
            characters[row] = sum(map(len, turns))
            for _, answer in rounds:
                formats[row, FORMATS.index(format_of(answer))] += 1
            digest = hashlib.blake2b("\0".join(turns).encode(), digest_size=16).digest()
            digests[row] = np.frombuffer(digest, dtype=np.uint64)
            sketches[row] = min_hashes(turns)
        np.save(out / "characters.npy", characters)
        np.save(out / "formats.npy", formats)
        np.save(out / "digests.npy", digests)
        np.save(out / "sketches.npy", sketches)
