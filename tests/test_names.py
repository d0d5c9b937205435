"""Texts in two arrays: the same as a list of them, sorted and counted as Python does."""

import random

import numpy as np
import pytest

from xmas.data.indexes.names import Names, offsets_of

WORDS = ["", "a", "a\0", "a\0\0", "ab", "straße", "中文字", "\U0001f600", "b" * 7, "b" * 8, "b" * 9]
WORDS += ["coco/train/000000000001.jpg", "coco/train/000000000001.jpg2", "z" * 300, "\x7f", "\x80"]


def drawn(count: int, seed: int) -> list[str]:
    letters = random.Random(seed)
    made = ["".join(letters.choices("ab\0é", k=letters.randrange(20))) for _ in range(count)]
    return [letters.choice(WORDS) if letters.random() < 0.3 else name for name in made]


def test_they_are_a_sequence():
    names = Names.of(WORDS)
    assert names == WORDS
    assert [names[-1], names[3]] == [WORDS[-1], WORDS[3]]
    assert names[2:7:2] == WORDS[2:7:2]
    assert names.take(np.array([5, 0, 5])) == [WORDS[5], WORDS[0], WORDS[5]]
    assert Names.of_all([names[3:5], Names.of([]), names[:1]]) == [*WORDS[3:5], WORDS[0]]
    with pytest.raises(IndexError):
        names[len(WORDS)]
    assert Names.of([]) == []
    assert Names.of_all([]) == []
    assert names != WORDS[1:]
    assert names.starting_with("a").tolist() == [word.startswith("a") for word in WORDS]
    assert names.starting_with("coco/tra").tolist() == [w.startswith("coco/tra") for w in WORDS]


@pytest.mark.parametrize("seed", range(5))
def test_the_different_ones_are_sorted_as_python_sorts_them(seed):
    texts = drawn(400, seed)
    different, numbers = Names.of(texts).distinct()
    assert different == sorted(set(texts))
    assert [different[number] for number in numbers.tolist()] == texts


def test_none_and_empty_ones():
    different, numbers = Names.of([]).distinct()
    assert len(different) == len(numbers) == 0
    different, numbers = Names.of(["", ""]).distinct()
    assert different == [""]
    assert numbers.tolist() == [0, 0]


def test_blocks_of_many(monkeypatch):
    monkeypatch.setattr("xmas.data.indexes.names._BLOCK", 3)
    names = Names.of(WORDS)
    assert list(names) == WORDS
    order = np.random.default_rng(0).permutation(len(WORDS))
    assert names.take(order) == [WORDS[number] for number in order]


def test_offsets():
    assert offsets_of([2, 0, 3]).tolist() == [0, 2, 2, 5]
    assert offsets_of([]).tolist() == [0]
