"""Arrays from buffers are those that pyarrow makes itself."""

import numpy as np
import pytest

from xmas.selection.arrow_arrays import of_flags, of_numbers, of_texts

pyarrow = pytest.importorskip("pyarrow")

VALUES = np.array([0.5, np.nan, -3, 7, np.inf, 1e-9, 2, np.nan, 5, 6, 8])  # a byte of bits, and 3


@pytest.mark.parametrize("kind", ["float32", "float64", "int32", "int64"])
def test_numbers(kind):
    values, valid = np.nan_to_num(VALUES, posinf=9).astype(kind), ~np.isnan(VALUES)
    assert of_numbers(values).equals(pyarrow.array(values))
    assert of_numbers(values, valid).equals(pyarrow.array(values, mask=~valid))
    assert of_numbers(values[::2]).equals(pyarrow.array(values[::2]))
    assert of_numbers(values[:0]).equals(pyarrow.array(values[:0]))


def test_flags_and_texts():
    flags = VALUES > 4
    assert of_flags(flags).equals(pyarrow.array(flags))
    texts = ["", "coco", "数 ü", "", "gqa"]
    assert of_texts(texts).equals(pyarrow.array(texts))
    assert of_texts([]).equals(pyarrow.array([], pyarrow.string()))
    for array in (of_numbers(VALUES, flags), of_flags(flags), of_texts(texts)):
        array.validate(full=True)
