"""What a store knows of trained targets: one score on one benchmark each, with its origin.

Only scores with a `run.json` count: it says which selector, budget and seed a score was made for,
and which reference it belongs to. The score of an answers file from elsewhere has none.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xmas.store import Store, write_atomically

Settings = tuple[tuple[str, str], ...]  # dotted path and value
_ASKED = "experiments"  # folder in a store: which experiment asked for which scores


class TableError(ValueError):
    """The scores found cannot be compared; the message names those that clash."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The score of one trained target on one benchmark, and where it lies."""

    selector: str
    budget: float  # a fraction of the pool up to 1, a number above, of `unit`
    rows: int
    seed: int
    role: str  # "reference" or "subset"
    pool: str  # its name
    target: str
    reference_group: str  # names pool, start and recipe: all but the subset and the seed
    control: str
    protocol: str
    benchmark: str
    split: str
    metric: str
    score: float | None  # None: invalid, `detail` of score.json says why
    num: int
    folder: str
    settings: Settings  # of the target and all before it, seeds left out
    measured: Settings = ()  # files, prompts, judge, batch, precision, attention
    config: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    invalid: str = ""  # why
    unit: str = "rows"  # or tokens
    nested: bool = True  # whether subsets of the selector at other budgets contain one another


def runs(store: Store) -> list[Run]:
    """Every finished score that says what it was made for, in `run.json`.

    Raises TableError: a file lacks a key.
    """
    own = ("folder", "settings", "measured", "config", "invalid")
    fields = [field for field in dataclasses.fields(Run) if field.name not in own]
    names = [field.name for field in fields if field.default is dataclasses.MISSING]
    found = []
    flat: dict[str, Settings] = {}  # a target's settings, which all its scores share
    for folder, meta in store.results("score"):
        if not (folder / "run.json").exists():
            continue
        said = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        said |= json.loads((folder / "score.json").read_text(encoding="utf-8"))
        if missing := [name for name in names if name not in said]:
            raise TableError(f"{folder}: neither run.json nor score.json has {', '.join(missing)}")
        known = {field.name: said[field.name] for field in fields if field.name in said}
        config = meta["config"]
        target = config.get("target", {})
        measured = {name: config.get(name, {}) for name in ("benchmark", "generation")}
        measured["answers"] = _made(folder)
        plain = json.dumps(target, sort_keys=True)
        if plain not in flat:
            flat[plain] = tuple(sorted(_leaves(target, seeds=False)))
        found.append(
            Run(
                **known,
                folder=str(folder),
                settings=flat[plain],
                measured=tuple(sorted(_leaves(measured, seeds=True))),
                config=target,
                invalid=str(said.get("detail", {}).get("invalid", "")),
            )
        )
    return found


def _made(folder: Path) -> dict[str, Any]:
    """How the answers came about, beyond what was configured, where the score says so."""
    path = folder / "generation.json"
    if not path.exists():
        return {}
    said = json.loads(path.read_text(encoding="utf-8"))
    return {name: said[name] for name in ("dtype", "attention") if name in said}


def remember(store: Store, experiment: str, scores: Sequence[str]) -> None:
    """Note that `experiment` asked for these scores, by key: others may share them."""
    named = hashlib.sha256(" ".join(scores).encode()).hexdigest()[:12]
    path = Path(store.root) / _ASKED / experiment / f"{named}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda partial: partial.write_text(json.dumps(scores)))


def asked_by(store: Store, experiment: str) -> set[str]:
    """The keys of all scores that an experiment asked for, finished or not.

    Raises TableError: it never asked for any.
    """
    folder = Path(store.root) / _ASKED
    lists = list((folder / experiment).glob("[!.]*.json"))
    if not lists:
        known = ", ".join(sorted(each.name for each in folder.glob("*"))) or "none"
        raise TableError(
            f"{store.root}: experiment {experiment} asked for no scores here; those that did: "
            f"{known}. `xmas -m goal=scores experiment={experiment} ...` again notes those that "
            "are there"
        )
    return {key for each in lists for key in json.loads(each.read_text())}


def _leaves(value: Any, path: str = "", *, seeds: bool) -> Iterator[tuple[str, str]]:
    """(dotted path, value) of everything in a configuration, of what is called a seed if asked."""
    if isinstance(value, dict):
        for name, held in value.items():
            if seeds or not name.endswith("seed"):
                yield from _leaves(held, f"{path}.{name}", seeds=seeds)
    elif isinstance(value, list):
        for number, held in enumerate(value):
            yield from _leaves(held, f"{path}.{number}", seeds=seeds)
    else:
        yield path, f"{value:g}" if isinstance(value, float) else str(value)
