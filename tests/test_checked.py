"""What tests call of xmas is held to its annotations: those with shapes, and those without."""

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

from xmas.evaluation.json_files import with_keys
from xmas.selection.rules.turns import even_quotas


def test_a_wrong_type_is_refused():
    with pytest.raises(BeartypeCallHintViolation, match="where"):
        with_keys({}, (), 7)


def test_a_wrong_shape_is_refused():
    with pytest.raises(TypeCheckError, match="sizes"):
        even_quotas(np.zeros((2, 3), dtype=int), 3)
