"""Choose the small part of a visual-instruction set that trains as well as all of it."""

import importlib

from xmas.data.pool import Pool as Pool
from xmas.selection.protocol import Selector as Selector
from xmas.selection.ranking import Ranking as Ranking
from xmas.selection.subset import Subset as Subset
from xmas.store import Stage as Stage
from xmas.store import Store as Store

_LATE = {  # what importing xmas does not load: torch, the bootstrap
    "Score": "xmas.evaluation.scores",
    "Table": "xmas.results.table",
    "scores": "xmas.results.frame",
}


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module 'xmas' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)
