"""The exam: what selectors do with a pool, measured before a target is trained on any subset."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from xmas.data.near_copies.text_sketches import Texts
from xmas.data.planted.planted_pool import PlantedPool
from xmas.data.planted.planting import Planting
from xmas.data.pool import Pool
from xmas.data.pool_sample import PoolSample
from xmas.features.clustering.kmeans import kmeans
from xmas.features.plain_vectors import PlainVectors
from xmas.models.chat.tokens import Tokenised
from xmas.models.start_point import StartPoint
from xmas.results.exam.exam_grids import exam_grids
from xmas.results.exam.examined import Examiner, Measured, places_of, subset_of
from xmas.results.exam.marks import ORDER, Mark, as_csv, plain, read
from xmas.results.exam.measures import correlation
from xmas.results.exam.sentences import sentences
from xmas.results.exam.trials import Trials, trials_of
from xmas.results.exam.variations import on_pool
from xmas.results.table.formats import markdown
from xmas.selection.budget import check_settings
from xmas.selection.protocol import BudgetSelector, Selector, TokenCounter, name_of
from xmas.store import Stage, Store, nearest_stages

FILE = "exam.json"
_ROWS_EACH = 40  # rows of a cluster of plain vectors, on average
_MOST = 500  # clusters


@dataclasses.dataclass(frozen=True)
class Exam(Stage):
    """`exam.json`, the marks of every selector; `exam.csv`, the same, a line each; `exam.md`, the
    tables and what they say in words.

    No target is trained. Selectors that learn are fitted on the pool, on parts of it and on planted
    pools, each with its own seed; a store has these rankings, so that a further selector costs its
    own alone.

    Args:
        pool: that selectors are examined on.
        selectors: by name; empty: `selector` alone.
        selector: where `selectors` is empty.
        fractions: budgets, as shares of the pool.
        text_only: the policy of subsets for rows without an image.
        rows: of the pool, at most, drawn at random: an exam of few rows is a short one; None: all.
        planting: shares of planted rows.
        seeds: of planting and ranking.
        fit_seeds: of what is trained on the pool, at most as many as `seeds`.
        shares: of the pool that are ranked alone: a half, nine tenths.
        starts: further start points of proxies, by name.
        remedies: whether to measure what makes a selector that learns more stable: the fits of
            every remedy are many.
        average: over how many proxies a remedy averages trajectories.
        counted: whose text tokens are a row's length; None: its characters.

    Raises:
        ValueError: seeds, fractions or shares that nothing can be measured with.
    """

    kind: ClassVar[str] = "exam"

    pool: Pool
    selectors: Mapping[str, Selector | BudgetSelector] | None = None
    selector: Selector | BudgetSelector | None = None
    fractions: Sequence[float] = (0.1, 0.3)
    text_only: str = "proportional"
    rows: int | None = None
    planting: Planting = dataclasses.field(default_factory=Planting)
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    fit_seeds: Sequence[int] = (0, 1, 2)
    shares: Sequence[float] = (0.5, 0.9)
    starts: Mapping[str, StartPoint] = dataclasses.field(default_factory=dict)
    remedies: bool = False
    average: int = 2
    counted: TokenCounter | None = None

    def __post_init__(self) -> None:
        if not self.selectors:
            if self.selector is None:
                raise ValueError("exam: name a selector, as in goal=exam selector=random,xmas")
            object.__setattr__(self, "selectors", {name_of(self.selector): self.selector})
        object.__setattr__(self, "selector", None)
        for fraction in self.fractions:
            check_settings(fraction=fraction, rows=None, text_only=self.text_only)
        if not self.fractions:
            raise ValueError("exam.fractions is empty; give budgets, as in exam.fractions=[0.1]")
        for name, seeds in (("seeds", self.seeds), ("fit_seeds", self.fit_seeds)):
            if len(set(seeds)) < 2 or len(set(seeds)) < len(seeds):
                raise ValueError(
                    f"exam.{name}={list(seeds)}: expected two or more different seeds, since "
                    "stability is measured between them"
                )
        if len(self.fit_seeds) > len(self.seeds):
            raise ValueError(
                f"exam.fit_seeds={list(self.fit_seeds)} are more than "
                f"exam.seeds={list(self.seeds)}, each of which plants a pool; give more seeds"
            )
        if not all(0 < share < 1 for share in self.shares):
            raise ValueError(f"exam.shares={list(self.shares)}: expected shares between 0 and 1")
        if self.average < 2:
            raise ValueError(f"exam.average={self.average}: expected 2 proxies or more")

    @property
    def examined_pool(self) -> Pool:
        """The pool, or a sample of it."""
        return self.pool if self.rows is None else PoolSample(self.pool, most=self.rows).as_pool()

    def trials(self) -> dict[str, Trials]:
        """The rankings of every selector."""
        pool = self.examined_pool
        parts = [PoolSample(pool, share) for share in self.shares]
        planted = [PlantedPool(pool, self.planting, seed) for seed in self.seeds]
        return {
            name: trials_of(
                on_pool(selector, self.pool, pool),
                pool,
                seeds=self.seeds,
                fit_seeds=self.fit_seeds,
                starts=self.starts,
                parts=parts,
                planted=planted,
                remedies=self.average if self.remedies else None,
            )
            for name, selector in (self.selectors or {}).items()
        }

    def inputs(self) -> list[Stage]:
        pool, stages = self.examined_pool, []
        every = self.trials().values()
        for ranking in (ranking for trials in every for ranking in trials.rankings()):
            if isinstance(ranking.selector, BudgetSelector):
                stages += [subset_of(ranking, part, self.text_only) for part in self.fractions]
            else:
                stages.append(ranking)
        for trials in every:
            stages += [stage for stage, _ in (*trials.parts, *trials.planted)]
        tokens = self._tokens()
        return [
            *nearest_stages(pool),
            PlainVectors(pool),
            *stages,
            Texts(pool) if tokens is None else tokens,
        ]

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: a selector cannot rank the pool, or a planted one; says why."""
        every = self.trials()
        measured = self._measured(store)
        marks: list[Mark] = []
        for name, trials in every.items():
            examiner = Examiner(name, trials, self.fractions, self.text_only, store, measured)
            marks += examiner.marks()
        marks += _orders(every, store)
        about = {
            "rows": len(measured.rows),
            "selectors": {
                name: {
                    "learns": trials.learns,
                    "nested": not isinstance(trials.plain.selector, BudgetSelector),
                }
                for name, trials in every.items()
            },
            "length_unit": "characters" if self.counted is None else "text tokens",
            "planted": self._planted(store),
        }
        record = {**about, "marks": [plain(mark) for mark in marks]}
        (out / FILE).write_text(json.dumps(record, indent=2))
        (out / "exam.csv").write_text(as_csv(marks), encoding="utf-8")
        (out / "exam.md").write_text(page(record), encoding="utf-8")

    def make(self, store: Store) -> str:
        """The tables and what they say, then the folder."""
        folder = store.get(self)
        return f"{(folder / 'exam.md').read_text(encoding='utf-8')}\n{folder}"

    def _planted(self, store: Store) -> dict[str, int]:
        """Rows of every kind in the first planted pool."""
        stage = PlantedPool(self.examined_pool, self.planting, self.seeds[0])
        return json.loads((store.get(stage) / "planted.json").read_text())

    def _tokens(self) -> Tokenised | None:
        if self.counted is None:
            return None
        return on_pool(self.counted, self.pool, self.examined_pool).tokens()

    def _measured(self, store: Store) -> Measured:
        pool = self.examined_pool
        tokens = self._tokens()
        if tokens is None:
            lengths = np.load(store.get(Texts(pool)) / "characters.npy")
        else:
            lengths = tokens.open(store).text_lengths
        vectors = np.load(store.get(PlainVectors(pool)) / "values.npy")
        k = max(1, min(_MOST, len(vectors) // _ROWS_EACH))
        clusters = kmeans(vectors, k, seed=0, iterations=20, per_centroid=256)
        return Measured(pool.open(store), lengths.astype(np.int64), clusters, vectors)


def _orders(every: Mapping[str, Trials], store: Store) -> Iterator[Mark]:
    """How alike the orders of two selectors are."""
    places = {
        name: places_of(np.load(store.get(trials.plain) / "order.npy"))
        for name, trials in every.items()
        if not isinstance(trials.plain.selector, BudgetSelector)
    }
    for first, second in itertools.combinations(places, 2):
        alike = correlation(places[first], places[second])
        yield Mark(first, None, ORDER, second, alike, chance=0.0)


def page(record: Mapping) -> str:
    """The tables of an `exam.json`, and what they say in words."""
    marks = read(record["marks"])
    lines = "\n".join(f"- {sentence}" for sentence in sentences(marks))
    return f"{markdown(exam_grids(marks))}\n## In words\n\n{lines}\n"
