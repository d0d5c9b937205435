"""`large_pages`: what the kernel says afterwards of the memory that was put into them."""

import ctypes
import errno
import mmap
import os
import re
from pathlib import Path

import large_pages
import pytest

LINUX = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
HAS_THEM = Path("/sys/kernel/mm/transparent_hugepage").exists() and LINUX >= (6, 1)


def mapped(pages: int) -> tuple[mmap.mmap, int, int]:
    """Memory that is written to, with addresses between which are as many whole large pages."""
    memory = mmap.mmap(-1, (pages + 1) * large_pages.SIZE, flags=mmap.MAP_PRIVATE)
    memory[:: mmap.PAGESIZE] = b"a" * (len(memory) // mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return memory, start, start + len(memory)


def in_large_pages(address: int) -> int:
    """Bytes of the mapping at an address that are in large pages."""
    for mapping in re.split(r"(?m)^(?=[0-9a-f]+-)", Path("/proc/self/smaps").read_text())[1:]:
        start, stop = (int(end, 16) for end in mapping.split(maxsplit=1)[0].split("-"))
        if start <= address < stop:
            match = re.search(r"AnonHugePages: +(\d+) kB", mapping)
            assert match is not None
            return int(match[1]) << 10
    raise AssertionError(f"nothing is mapped at {address:x}")


@pytest.mark.skipif(not HAS_THEM, reason="no large pages on request: Linux 6.1 has them")
def test_memory_is_in_large_pages_and_has_its_content():
    memory, start, stop = mapped(3)
    assert large_pages.collapse(start, stop)
    assert in_large_pages(start) >= 3 * large_pages.SIZE
    assert memory[:: mmap.PAGESIZE] == b"a" * (len(memory) // mmap.PAGESIZE)


def test_less_than_a_large_page_is_left_as_it_is():
    assert large_pages.collapse(large_pages.SIZE + 1, 2 * large_pages.SIZE)


@pytest.mark.skipif(not HAS_THEM, reason="no large pages on request: Linux 6.1 has them")
def test_a_refusal_is_left_alone_where_it_is_of_a_slow_or_older_machine(monkeypatch):
    nowhere = 0, large_pages.SIZE  # never mapped: ENOMEM
    assert not large_pages.collapse(*nowhere)
    monkeypatch.setattr(large_pages, "_LEFT_SMALL", {errno.EINVAL})
    with pytest.raises(OSError, match=r"madvise of 0-200000: Cannot allocate memory"):
        large_pages.collapse(*nowhere)
