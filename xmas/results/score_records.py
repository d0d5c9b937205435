"""The scores of trained targets in a store: one target on one benchmark each, with its origin.

Only scores with a `run.json` count: it says which selector, budget and seed a score was made for,
and which reference it belongs to. The score of an answers file from elsewhere has none.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xmas.store import Store, write_atomically
from xmas.store.integrity import check
from xmas.store.writable import is_writable

log = logging.getLogger(__name__)

Settings = tuple[tuple[str, str], ...]  # dotted path and value
_EXPERIMENTS = "experiments"  # folder in a store: which experiment asked for which scores


class TableError(ValueError):
    """The scores of a store cannot be compared; the message names those that clash."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The score of one trained target on one benchmark, and its folder."""

    selector: str
    budget: float  # a fraction of the pool up to 1, a number above, of `unit`
    rows: int
    seed: int
    role: str  # "reference", "base" or "subset"
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
    settings: Settings  # of the target and all stages before it, without seeds
    other_seeds: Settings = ()  # of the stages before the target, but for the ranking's own
    measured: Settings = ()  # files, prompts, judge, batch, precision, attention
    config: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    invalid: str = ""  # why
    unit: str = "rows"  # or tokens
    nested: bool = True  # whether subsets of the selector at other budgets contain one another
    saw_validation: bool = False  # whether its rows were chosen by a benchmark's validation rows
    sources: dict[str, tuple[float, int]] = dataclasses.field(  # score and questions of each source
        default_factory=dict, compare=False, repr=False
    )


def runs(store: Store) -> list[Run]:
    """Every finished score that says what it was made for, in `run.json`.

    Raises:
        TableError: a file lacks a key.
        DamagedResultError: a file is not what was written when the score was finished.
    """
    own = ("folder", "settings", "other_seeds", "measured", "config", "invalid", "sources")
    fields = [field for field in dataclasses.fields(Run) if field.name not in own]
    names = [field.name for field in fields if field.default is dataclasses.MISSING]
    scores = []
    flat: dict[str, tuple[Settings, Settings]] = {}  # a target's, which all its scores share
    for folder, meta in store.results("score"):
        check(folder)
        if not (folder / "run.json").exists():
            continue
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        record |= json.loads((folder / "score.json").read_text(encoding="utf-8"))
        if missing := [name for name in names if name not in record]:
            raise TableError(f"{folder}: neither run.json nor score.json has {', '.join(missing)}")
        config, detail = meta["config"], record.get("detail", {})
        target = config.get("target", {})
        measurement = {name: config.get(name, {}) for name in ("benchmark", "generation")}
        measurement["answers"] = _generated(folder)
        plain = json.dumps(target, sort_keys=True)
        if plain not in flat:
            flat[plain] = _split(target)
        scores.append(
            Run(
                **{field.name: record[field.name] for field in fields if field.name in record},
                folder=str(folder),
                settings=flat[plain][0],
                other_seeds=flat[plain][1],
                measured=tuple(sorted(leaves(measurement, seeds=True))),
                config=target,
                invalid=str(detail.get("invalid", "")),
                sources={
                    name: (part["score"], part["num"])
                    for name, part in detail.get("sources", {}).items()
                },
            )
        )
    return scores


def _generated(folder: Path) -> dict[str, Any]:
    """How the answers were generated, beyond what was configured, where the score has it."""
    path = folder / "generation.json"
    if not path.exists():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    return {name: record[name] for name in ("dtype", "attention") if name in record}


def remember(store: Store, experiment: str, scores: Sequence[str]) -> None:
    """Note that `experiment` asked for these scores, by key: several may ask for one score."""
    name = hashlib.sha256(" ".join(scores).encode()).hexdigest()[:12]
    path = Path(store.root) / _EXPERIMENTS / experiment / f"{name}.json"
    if path.exists():
        return
    if not is_writable(path.parent):
        log.warning(
            "%s is read-only: that experiment=%s asked for these scores is not noted, so "
            "table.experiment=%s does not show them", store.root, experiment, experiment,
        )  # fmt: skip
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda partial: partial.write_text(json.dumps(scores)))


def asked_by(store: Store, experiment: str) -> set[str]:
    """The keys of all scores that an experiment asked for, finished or not.

    Raises:
        TableError: it never asked for any.
    """
    folder = Path(store.root) / _EXPERIMENTS
    lists = list((folder / experiment).glob("[!.]*.json"))
    if not lists:
        others = ", ".join(sorted(path.name for path in folder.glob("*"))) or "none"
        raise TableError(
            f"{store.root}: experiment {experiment} asked for no scores here; those that did: "
            f"{others}. `xmas -m goal=scores experiment={experiment} ...` again notes those that "
            "are there"
        )
    return {key for path in lists for key in json.loads(path.read_text())}


def _split(target: dict[str, Any]) -> tuple[Settings, Settings]:
    """The settings of a target without seeds, and the seeds but for its own and its ranking's."""
    settings = tuple(sorted(leaves(target, seeds=False)))
    plain = {path for path, _ in settings} | {".seed", ".subset.ranking.seed"}
    every = sorted(leaves(target, seeds=True))
    return settings, tuple((path, value) for path, value in every if path not in plain)


def leaves(value: Any, path: str = "", *, seeds: bool) -> Iterator[tuple[str, str]]:
    """(dotted path, value) of everything in a configuration; `seeds`: fields named so as well."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if seeds or not name.endswith("seed"):
                yield from leaves(inner, f"{path}.{name}", seeds=seeds)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{path}.{number}", seeds=seeds)
    else:
        yield path, f"{value:g}" if isinstance(value, float) else str(value)
