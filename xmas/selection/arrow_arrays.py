"""numpy arrays and texts as Arrow's, from their buffers.

`pyarrow.array` does the same, but imports pandas where that is installed: a quarter of the seconds
of a command that writes a subset.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Num


def of_numbers(
    values: Num[np.ndarray, " rows"], valid: Bool[np.ndarray, " rows"] | None = None
) -> Any:
    """A pyarrow.Array of the same type; null where `valid` is false."""
    import pyarrow  # pyright: ignore[reportMissingImports]  # an extra

    kind = pyarrow.from_numpy_dtype(values.dtype)
    bits = None if valid is None else _bits(valid)
    content = pyarrow.py_buffer(np.ascontiguousarray(values))
    return pyarrow.Array.from_buffers(kind, len(values), [bits, content])


def of_flags(values: Bool[np.ndarray, " rows"]) -> Any:
    """A pyarrow.Array of booleans."""
    import pyarrow  # pyright: ignore[reportMissingImports]

    return pyarrow.Array.from_buffers(pyarrow.bool_(), len(values), [None, _bits(values)])


def of_texts(values: Sequence[str]) -> Any:
    """A pyarrow.Array of strings, of less than 2 GB in all."""
    import pyarrow  # pyright: ignore[reportMissingImports]

    encoded = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    buffers = [None, pyarrow.py_buffer(ends), pyarrow.py_buffer(b"".join(encoded))]
    return pyarrow.Array.from_buffers(pyarrow.string(), len(values), buffers)


def _bits(values: Bool[np.ndarray, " rows"]) -> Any:
    import pyarrow  # pyright: ignore[reportMissingImports]

    return pyarrow.py_buffer(np.packbits(values, bitorder="little"))
