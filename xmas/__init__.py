"""Choose the small part of a visual-instruction set that trains as well as all of it."""

import importlib

from xmas.pool import Pool as Pool
from xmas.ranking import Ranking as Ranking
from xmas.select import Selector as Selector
from xmas.store import Stage as Stage
from xmas.store import Store as Store
from xmas.subset import Subset as Subset

_LATE = {  # what importing xmas does not load: torch, the bootstrap
    "Score": "xmas.bench.stage",
    "Table": "xmas.table",
    "results": "xmas.frames",
}


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module 'xmas' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)
