"""What an error message suggests in place of a misspelt name."""

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str], *, similarity: float = 0.6) -> str | None:
    """The name most like `name` by difflib's ratio, None where none has this `similarity`.

    >>> nearest("selektor", ["seed", "selector"])
    'selector'
    """
    matches = difflib.get_close_matches(name, [*names], n=1, cutoff=similarity)
    return matches[0] if matches else None


def hint(near: str | None) -> str:
    """How a sentence about a wrong name ends: with a question, or without a name to suggest."""
    return f"; did you mean {near}?" if near else "."


def suggestion(name: str, names: Iterable[str], *, form: str = "{}") -> str:
    """The end of a sentence about a wrong name, then all names; `form` is of the nearest one.

    >>> "keep=scroe: no such kind" + suggestion("scroe", ["score", "subset"], form="keep={}")
    'keep=scroe: no such kind; did you mean keep=score? There are score, subset'
    >>> "keep=plum: no such kind" + suggestion("plum", ["score", "subset"])
    'keep=plum: no such kind. There are score, subset'
    """
    names = list(names)
    near = nearest(name, names)
    return f"{hint(form.format(near) if near else None)} There are {', '.join(names)}"
