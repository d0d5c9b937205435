"""What tests call of xmas is held to its annotations: those with shapes, and those without."""

import gc
import importlib
import itertools
import weakref
from pathlib import Path

import annotations
import array_checks
import numpy as np
import pytest
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from jaxtyping._storage import get_shape_memo, pop_shape_memo, push_shape_memo

import xmas
from xmas.evaluation.json_files import with_keys
from xmas.selection.rules.turns import even_quotas, in_turns
from xmas.store import Store

FOLDER = Path(xmas.__file__).parent


def test_a_wrong_type_is_refused_where_a_module_has_shapes():
    with pytest.raises(BeartypeCallHintViolation, match="budget"):
        even_quotas(np.zeros(2, dtype=int), "3")


def test_a_wrong_type_is_refused_where_it_has_none():
    with pytest.raises(BeartypeCallHintViolation, match="stage"):
        Store("store").path(7)
    with pytest.raises(BeartypeCallHintViolation, match="where"):
        with_keys({}, (), 7)


def test_a_wrong_shape_is_refused():
    with pytest.raises(BeartypeCallHintViolation, match="sizes"):
        even_quotas(np.zeros((2, 3), dtype=int), 3)


def test_names_of_axes_agree_in_one_call_and_are_free_in_the_next():
    for rows in (2, 3):
        assert in_turns(np.zeros(rows, dtype=int), np.arange(rows)).tolist() == [*range(rows)]
    with pytest.raises(BeartypeCallHintViolation, match="preferred"):
        in_turns(np.zeros(2, dtype=int), np.arange(3))


def test_an_axis_may_have_the_length_that_an_argument_says():
    @annotations.checked
    def counted(values: Float[np.ndarray, " n"], k: int = 2) -> Float[np.ndarray, " {k}"]:
        return values[:2]

    assert counted(np.ones(3)).tolist() == counted(np.ones(3), 2).tolist() == [1, 1]
    with pytest.raises(BeartypeCallHintViolation, match="return"):
        counted(np.ones(3), k=3)


def test_a_function_within_a_function_is_checked_at_every_definition():
    """Its checks are built at the first, and keep alive nothing that this has closed over."""

    class Scale:
        def __init__(self, value: int) -> None:
            self.value = value

    def define(scale: Scale):
        @annotations.checked
        def scaled(values: Float[np.ndarray, " n"], more: Float[np.ndarray, " n"]) -> np.ndarray:
            return scale.value * values + more

        return scaled

    first = Scale(2)
    alive = weakref.ref(first)
    one, other = define(first), define(Scale(3))
    del first
    assert one(np.ones(2), np.ones(2)).tolist() == [3, 3]
    assert other(np.ones(2), np.ones(2)).tolist() == [4, 4]
    for scaled in (one, other):
        with pytest.raises(BeartypeCallHintViolation, match="more"):
            scaled(np.ones(2), np.ones(3))
        with pytest.raises(BeartypeCallHintViolation, match="values"):
            scaled([1.0], np.ones(1))
    del one, scaled
    gc.collect()
    assert alive() is None


def test_every_module_is_checked():
    names = [
        ".".join(path.relative_to(FOLDER.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in FOLDER.rglob("*.py")
        if path.stem != "__main__"
    ]
    assert len(names) > 200
    loaders = {type(importlib.import_module(name).__loader__).__name__ for name in names}
    assert loaders == {"_JaxtypingLoader"}


def test_quick_checks_of_arrays_refuse_what_jaxtyping_s_own_do():
    """Of a type that has passed before, since the first is jaxtyping's; a name that was new when a
    check failed is free again.
    """
    arrays = [
        np.zeros(shape, kind) for shape in [(2,), (3,), (2, 3), (3, 2), (3, 3)] for kind in "fi"
    ]
    hints = [Float[np.ndarray, " a"], Float[np.ndarray, "a b"], Float[np.ndarray, "b 3"]]
    own = {"b": 3}, {"a": 2}, {}
    for lengths in own:
        for hint, array in itertools.product(hints, arrays):
            verdicts, named = [], []
            for check in (isinstance, lambda array, hint: array_checks._own(hint, array)):
                memo = push_shape_memo({})[0]
                memo.update(lengths)
                verdicts.append(check(array, hint))
                named.append(dict(memo) if verdicts[-1] else dict(get_shape_memo()[0]))
                pop_shape_memo()
            assert verdicts[0] == verdicts[1], (lengths, hint, array.shape)
            assert named[0] == named[1], (lengths, hint, array.shape)
