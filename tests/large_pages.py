"""The memory of a process in pages of 2 MB, whose tables a fork copies in less than half the time.

Of the server of tests, with torch, a fork and its exit are 27 ms, and 10.5 with large pages; making
them is .5 s, once. A fork that writes to one gets a small page of its own, as without.
"""

import ctypes
import re
from pathlib import Path

SIZE = 2 << 20
COLLAPSE = 25  # MADV_COLLAPSE: Linux 6.1; a system without it changes nothing
_ANONYMOUS = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ 0\s*(?:\[heap\])?")


def use_large_pages() -> None:
    """Put what this process has in memory now, files left out, into large pages."""
    maps = Path("/proc/self/maps")
    advise = getattr(ctypes.CDLL(None), "madvise", None)
    if advise is None or not maps.exists():
        return
    for line in maps.read_text().splitlines():
        if match := _ANONYMOUS.fullmatch(line):
            start, stop = (int(address, 16) for address in match.groups())
            first, last = -(-start // SIZE) * SIZE, stop // SIZE * SIZE
            if first < last:
                advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), COLLAPSE)
