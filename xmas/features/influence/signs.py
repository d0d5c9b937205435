"""Random signs by their place: the same on any device, in any order, in blocks of any size.

A projection of millions of numbers to thousands has more signs than fit anywhere, so they are made
where they are needed. A generator that counts would give others to other blocks; here each word of
64 signs is a hash of its position. The hash is SplitMix64 (Steele, Lea, Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014), whose state is a counter.
"""

import torch
from jaxtyping import Int, Int8
from torch import Tensor

BITS = 64  # signs of a word
_WORD = 1 << BITS
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def splitmix64(stream: int, counts: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Number `counts`, from 0, of the SplitMix64 sequence with this seed, as signed 64 bits."""
    word = (counts + 1) * _signed(_STEP) + _signed(stream)
    word = (word ^ _shifted(word, 30)) * _signed(_FIRST)
    word = (word ^ _shifted(word, 27)) * _signed(_SECOND)
    return word ^ _shifted(word, 31)


def stream_of(seed: int, number: int) -> int:
    """The seed of one of many independent sequences."""
    first = int(splitmix64(seed, torch.tensor(0)))
    return int(splitmix64(first, torch.tensor(number)))


def signs(
    stream: int, rows: range, width: int, device: torch.device | str = "cpu"
) -> Int8[Tensor, "rows width"]:
    """+1 or -1 for every place of some rows of an endless matrix with `width` columns."""
    words = -(-width // BITS)
    numbers = torch.arange(rows.start, rows.stop, device=device)[:, None]
    hashes = splitmix64(stream, numbers * words + torch.arange(words, device=device))
    bits = (hashes[:, :, None] >> torch.arange(BITS, device=device)) & 1
    return bits.to(torch.int8).flatten(1)[:, :width] * 2 - 1


def _signed(word: int) -> int:
    """64 bits as torch's signed integer of the same bits."""
    word %= _WORD
    return word - _WORD if word >= _WORD // 2 else word


def _shifted(word: Int[Tensor, "*shape"], bits: int) -> Int[Tensor, "*shape"]:
    """Shifted to the right, zeros coming in: torch's own shift repeats the sign."""
    return (word >> bits) & ((1 << (BITS - bits)) - 1)
