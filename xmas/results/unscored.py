"""Subsets that no target was trained on yet: what the report shows of them, without a score."""

import json
from collections.abc import Iterable, Iterator

from xmas.data.planted.planted_pool import PlantedPool
from xmas.data.pool_sample import PoolSample
from xmas.results.evidence import Evidence, Line, Training
from xmas.results.leaderboard import REFERENCE, Leaderboard
from xmas.results.leaderboard_rows import Row
from xmas.results.statistics.intervals import Certainty
from xmas.store import Store
from xmas.store.index import Config, Result, ResultIndex, key_of
from xmas.store.stage import digest, type_name


def unscored(index: ResultIndex, store: Store, scored: Iterable[Evidence]) -> list[Evidence]:
    """The subsets of a store without scores, one `Evidence` for each pool; the last made first.

    Args:
        scored: what has scores: their subsets are left out.
    """
    used = {
        key_of(training.subset) for of in scored for line in of.lines for training in line.trainings
    }
    by_pool: dict[str, list[Result]] = {}
    for result in index.results.values():
        if result.kind != "subset" or result.key in used or _of_an_exam(result.config):
            continue
        if _selector(result) != REFERENCE:
            by_pool.setdefault(digest(result.config["ranking"]["pool"]), []).append(result)
    boards = []
    for results in by_pool.values():
        results.sort(key=lambda result: str(result.meta.get("finished")))
        rows = [*_rows(results)]
        board = Leaderboard(_pool_name(results[-1]), "", {}, (), tuple(row for row, _ in rows))
        lines = tuple(_line(row, of_seed) for row, of_seed in rows)
        boards.append(Evidence(board, lines, (), index, store))
    return boards


def _of_an_exam(config: Config) -> bool:
    """Whether a subset is of a pool that an exam has made, which no target is trained on."""
    made_by = (config["ranking"]["pool"].get("pool") or {}).get("stage") or {}
    return made_by.get("type") in (type_name(PlantedPool), type_name(PoolSample))


def _rows(results: list[Result]) -> Iterator[tuple[Row, dict[int, Result]]]:
    """A row for every selector, budget and configuration, with its subsets by seed."""
    alike: dict[tuple[str, float, str], dict[str, dict[int, Result]]] = {}
    for result in results:
        budget, unit = _budget(result.config)
        of_budget = alike.setdefault((_selector(result), budget, unit), {})
        ranking = {name: part for name, part in result.config["ranking"].items() if name != "seed"}
        rest = {name: part for name, part in result.config.items() if name != "ranking"}
        variant = of_budget.setdefault(digest([ranking, rest]), {})
        variant[int(result.config["ranking"]["seed"])] = result
    for (selector, budget, unit), variants in alike.items():
        for variant in variants.values():
            last = [*variant.values()][-1]
            settings = (("key", last.key),) if len(variants) > 1 else ()
            counts = {int(_manifest(result)["rows"]) for result in variant.values()}
            row = Row(
                selector=selector,
                settings=settings,
                budget=budget,
                rows=tuple(sorted(counts)),
                seeds=tuple(sorted(variant)),
                scores={}, relative={}, arps={}, seed_relative={}, seed_arps={}, gaps={}, runs=(),
                unit=unit,
                nested=bool(_manifest(last)["nested"]),
                saw_validation=bool(_manifest(last).get("saw_validation", False)),
            )  # fmt: skip
            yield row, variant


def _line(row: Row, of_seed: dict[int, Result]) -> Line:
    return Line(
        row=row,
        certainty=Certainty({}, {}, {}, None),
        trainings=tuple(
            Training(seed, None, {"subset": of_seed[seed].config}) for seed in row.seeds
        ),
        cost=None,
        cost_absent="no target was trained",
        cost_of_full=None,
        osc_absent="no target was trained",
        length_r2={},
    )


def _budget(config: Config) -> tuple[float, str]:
    """As a row of a leaderboard has it: a share, or a number with its unit."""
    for unit in ("tokens", "rows"):
        if config.get(unit) is not None:
            return float(config[unit]), unit
    return float(config["fraction"]), "rows"


def _selector(result: Result) -> str:
    return str(_manifest(result)["selector"])


def _manifest(result: Result) -> Config:
    return json.loads(result.file("manifest.json").read_text(encoding="utf-8"))


def _pool_name(result: Result) -> str:
    """The name that the pool had; results of former versions do not say it."""
    label = str(result.meta.get("label", ""))
    return label.rpartition(", pool ")[2] or "of former results"
