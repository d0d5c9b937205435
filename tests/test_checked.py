"""What tests call of xmas is held to its annotations: those with shapes, and those without."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

import xmas
from xmas.evaluation.json_files import with_keys
from xmas.selection.rules.turns import even_quotas
from xmas.store import Store

FOLDER = Path(xmas.__file__).parent


def test_a_wrong_type_is_refused_where_a_module_has_shapes():
    with pytest.raises(TypeCheckError, match="budget"):
        even_quotas(np.zeros(2, dtype=int), "3")


def test_a_wrong_type_is_refused_where_it_has_none():
    with pytest.raises(BeartypeCallHintViolation, match="stage"):
        Store("store").path(7)
    with pytest.raises(BeartypeCallHintViolation, match="where"):
        with_keys({}, (), 7)


def test_a_wrong_shape_is_refused():
    with pytest.raises(TypeCheckError, match="sizes"):
        even_quotas(np.zeros((2, 3), dtype=int), 3)


def test_every_module_with_shapes_is_among_those_whose_shapes_are_checked():
    shaped = {
        ".".join(path.relative_to(FOLDER.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in FOLDER.rglob("*.py")
        if re.search(r"^from jaxtyping import", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(shaped) > 50
    loaders = {name: type(importlib.import_module(name).__loader__) for name in shaped}
    assert {loader.__name__ for loader in loaders.values()} == {"_JaxtypingLoader"}
