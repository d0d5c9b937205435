"""Choose the small part of a visual-instruction set that trains as well as all of it."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xmas.data.pool import Pool as Pool
    from xmas.evaluation.scores import Score as Score
    from xmas.results.frame import scores as scores
    from xmas.results.table import Table as Table
    from xmas.selection.protocol import Selector as Selector
    from xmas.selection.ranking import Ranking as Ranking
    from xmas.selection.subset import Subset as Subset
    from xmas.selection.subset_forms import SubsetFiles as SubsetFiles
    from xmas.store import Stage as Stage
    from xmas.store import Store as Store

_MODULES = {  # imported when the name is used: `xmas --help` needs none, `xmas.Pool` no torch
    "Pool": "xmas.data.pool",
    "Ranking": "xmas.selection.ranking",
    "Score": "xmas.evaluation.scores",
    "Selector": "xmas.selection.protocol",
    "Stage": "xmas.store",
    "Store": "xmas.store",
    "Subset": "xmas.selection.subset",
    "SubsetFiles": "xmas.selection.subset_forms",
    "Table": "xmas.results.table",
    "scores": "xmas.results.frame",
}
__all__ = [*_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'xmas' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
