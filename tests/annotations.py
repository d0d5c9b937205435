"""Hold every call into xmas to its annotations, shapes included.

beartype checks types and asks jaxtyping for shapes; the names of axes hold for one call.
jaxtyping's own decorator opens that scope too, but binds all arguments of each call, has beartype
check them twice, and builds its checks anew for each definition of a function within a function.
"""

import builtins
import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import array_checks
import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeClawDecorWarning
from jaxtyping import install_import_hook
from jaxtyping._storage import pop_shape_memo, push_shape_memo

CONF = BeartypeConf(
    is_pep484_tower=True,
    # of a hint that only pyright resolves, as tqdm[Any]: pyproject.toml says what is ignored
    warning_cls_on_decorator_exception=BeartypeClawDecorWarning,
)
_FUNCTION = "__beartype_func"  # the parameter by which beartype's wrapper has the wrapped function
_wrappers: dict[types.CodeType, tuple[dict[str, Any], types.FunctionType]] = {}


def install() -> None:
    """Check all modules of xmas that are imported from now on."""
    if sys.version_info < (3, 12):  # which caches them: each check of a protocol would list them
        typing._get_protocol_attrs = functools.cache(typing._get_protocol_attrs)
    array_checks.install()
    jaxtyping.jaxtyped = lambda typechecker: checked  # what the hook writes over each definition
    install_import_hook("xmas", "beartype.beartype")


def checked(definition: Any) -> Any:
    """The function or class, of which a dataclass has its values checked as it is made."""
    if not inspect.isclass(definition):
        return _function(definition)
    if "__dataclass_fields__" in vars(definition) and "__init__" in vars(definition):
        definition.__init__ = _function(definition.__init__)
    return definition


def _function(function: Callable) -> Callable:
    if hasattr(function, "__wrapped__") or not function.__annotations__:
        return function  # written in the dataclass, and so checked before; or nothing is said
    if "<locals>" in function.__qualname__ or inspect.isgeneratorfunction(function):
        return _with_checks(function)  # torch and contextlib ask at once whether one is a generator
    later = types.FunctionType(_build.__code__, function.__globals__)
    later.__kwdefaults__ = {"_of": functools.partial(_become, later, function)}
    return functools.update_wrapper(later, function)


def _build(*args: Any, _of: Callable[[], Callable], **options: Any) -> Any:
    """What a function of a module is until its first call: half of them are never called.

    Its code is run with the globals of other modules, so it names nothing but its arguments.
    """
    return _of()(*args, **options)


def _become(later: types.FunctionType, function: Callable) -> Callable:
    """Turn it into the function with checks, whose calls then cost nothing more."""
    checks = _with_checks(function)
    if checks is function:
        later.__kwdefaults__ = {"_of": lambda: function}
    else:
        later.__kwdefaults__ = checks.__kwdefaults__
        later.__code__ = checks.__code__
    return checks


def _with_checks(function: Callable) -> Callable:
    for name, hint in function.__annotations__.items():
        if isinstance(hint, str) and not _can_be_resolved(hint, function):
            function.__annotations__[name] = Any
    typed, hints = _typed(function), " ".join(map(repr, function.__annotations__.values()))
    if "jaxtyping" not in hints:
        return typed
    signature = inspect.signature(function) if "{" in hints else None  # an axis of `k` values
    values = functools.partial(_bound, signature) if signature else None
    scoped = types.FunctionType(_scoped.__code__, function.__globals__)
    scoped.__kwdefaults__ = _scoped.__kwdefaults__ | {"_typed": typed, "_values": values}
    return functools.update_wrapper(scoped, function)


def _scoped(
    *args: Any,
    _typed: Callable,
    _values: Callable | None,
    _push: Callable = push_shape_memo,
    _pop: Callable = pop_shape_memo,
    **options: Any,
) -> Any:
    """The names of axes hold for this call. Like `_build` it names nothing but its arguments."""
    _push(_values(args, options) if _values else {})
    try:
        return _typed(*args, **options)
    finally:
        _pop()


def _can_be_resolved(hint: str, function: Callable) -> bool:
    """Whether it names what is there, what its module defines further down, or a path to import.

    Otherwise the name is imported for pyright alone.
    """
    names = re.findall(r"[A-Za-z_][\w.]*", hint)
    classes = _classes(function.__globals__["__file__"])
    known = function.__globals__.keys() | vars(builtins).keys() | classes
    return all("." in name or name in known for name in names)


@functools.cache
def _classes(file: str) -> frozenset[str]:
    return frozenset(
        re.findall(r"^class (\w+)", Path(file).read_text(encoding="utf-8"), re.MULTILINE)
    )


def _bound(signature: inspect.Signature, args: tuple, options: dict[str, Any]) -> dict[str, Any]:
    bound = signature.bind(*args, **options)
    bound.apply_defaults()
    return bound.arguments


def _typed(function: Callable) -> Callable:
    """beartype's wrapper; of a function within a function it is built once for all definitions."""
    if "<locals>" not in function.__qualname__:
        return beartype(function, conf=CONF)
    annotations, wrapper = _wrappers.get(function.__code__, (None, None))
    if wrapper is None or annotations != function.__annotations__:
        wrapper = beartype(_without_values(function), conf=CONF)
        _wrappers[function.__code__] = dict(function.__annotations__), wrapper
    if _FUNCTION not in (wrapper.__kwdefaults__ or ()):
        return function  # its annotations allow everything
    again = types.FunctionType(wrapper.__code__, wrapper.__globals__, wrapper.__name__)
    again.__kwdefaults__ = wrapper.__kwdefaults__ | {_FUNCTION: function}
    return functools.update_wrapper(again, function)


def _without_values(function: Callable) -> types.FunctionType:
    """The same code, without what a definition has closed over, which a cache would keep alive."""
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    bare = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, closure=cells
    )
    bare.__annotations__, bare.__qualname__ = function.__annotations__, function.__qualname__
    bare.__module__ = function.__module__
    return bare
