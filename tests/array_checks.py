"""Types and shapes of arrays as jaxtyping checks them, quickly where they are as annotated.

For every array jaxtyping copies four dictionaries and looks for the type of its elements in texts.
Here what fits is known by its type, and its lengths are compared. All else is left to jaxtyping:
the first array of a type, each that does not fit, and axes of other kinds.
"""

from typing import Any, NamedTuple

from jaxtyping import _array_types
from jaxtyping._storage import _shape_storage

_Kind = _array_types._MetaAbstractArray  # of annotations of arrays
_own = _Kind.__instancecheck__


class _Plan(NamedTuple):
    axes: tuple[str | int | None, ...]  # named, of a length, or any
    types: dict[type, set[Any]]  # of arrays that fit but for their shape, and of their elements


_plans: dict[type, _Plan | None] = {}


def install() -> None:
    _Kind.__instancecheck__ = _fits


def _fits(cls: Any, array: Any) -> bool:
    plan = _plans.get(cls)
    if plan is not None:
        axes, types = plan
        elements = types.get(type(array))
        if elements is not None and array.dtype in elements:
            shape, stack = array.shape, _shape_storage.__dict__.get("memo_stack")
            lengths = stack[-1][0] if stack else {}  # by the names of axes, in this call
            known = len(lengths)
            if len(shape) == len(axes):
                for axis, length in zip(axes, shape):  # noqa: B905  # of the same length
                    if axis.__class__ is str:
                        if lengths.setdefault(axis, length) != length:
                            break
                    elif axis is not None and axis != length:
                        break
                else:
                    return True
                while len(lengths) > known:
                    lengths.popitem()
    return _learn(cls, array)


def _learn(cls: Any, array: Any) -> bool:
    """What jaxtyping says of an array, and of its type from then on."""
    if cls not in _plans:
        _plans[cls] = _plan(cls)
    fits, plan = _own(cls, array), _plans[cls]
    if fits and plan is not None:
        plan.types.setdefault(type(array), set()).add(array.dtype)
    return fits


def _plan(cls: Any) -> _Plan | None:
    """None: an axis is none of those above."""
    if cls.index_variadic is not None:
        return None
    axes: list[str | int | None] = []
    for axis in cls.dims:
        if axis is _array_types._anonymous_dim:
            axes.append(None)
        elif axis.broadcastable:
            return None
        elif isinstance(axis, _array_types._NamedDim) and not axis.treepath:
            axes.append(axis.name)
        elif isinstance(axis, _array_types._FixedDim):
            axes.append(axis.size)
        else:
            return None
    return _Plan(tuple(axes), {})
