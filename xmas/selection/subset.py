"""The subset: a ranking cut at a budget, as rows and as a file that any LLaVA trainer reads."""

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from xmas.data.pool import Examples
from xmas.selection.budget import budget_of, cut
from xmas.selection.protocol import BudgetSelector, name_of
from xmas.selection.ranking import Ranking
from xmas.selection.subset_files import manifest, write_ranking, write_records
from xmas.store import Stage, Store

if TYPE_CHECKING:
    from xmas.models.chat.tokens import Tokenised  # loads torch


@runtime_checkable
class Counting(Protocol):
    """What says how many tokens a row has: a proxy does; it is not fitted for that."""

    def tokens(self) -> "Tokenised": ...


@dataclasses.dataclass(frozen=True)
class Subset(Stage):
    """`rows.json`, ascending; `instructions.json`, the same rows' records byte for byte as a JSON
    list; `ranking.parquet`, where pyarrow is installed: every row of the pool with its rank, score,
    cluster and whether it was chosen; `manifest.json`: counts, hashes and origin.

    A budget in `tokens` counts text tokens, answers and questions in the template of `counted`, for
    comparisons at equal tokens: the longest beginning of the ranking that does not exceed it.
    """

    kind: ClassVar[str] = "subset"
    version: ClassVar[int] = 2

    ranking: Ranking
    fraction: float | None = 0.2  # of the pool, in (0, 1]; or
    rows: int | None = None  # an exact count; or
    tokens: int | None = None  # text tokens at most, within a row of it
    counted: Counting | None = None  # whose tokens `tokens` counts; no part of other budgets
    text_only: str = "proportional"  # exclude, keep_all, ranked
    floors: dict[str, int] = dataclasses.field(default_factory=dict)  # source: rows at least
    caps: dict[str, int] = dataclasses.field(default_factory=dict)  # source: rows at most

    def __post_init__(self) -> None:
        if self.tokens is None:  # or a subset of so many rows would be another for each proxy
            object.__setattr__(self, "counted", None)

    @property
    def nested(self) -> bool:
        """Whether subsets of this ranking at other budgets contain this one, or lie in it."""
        return not isinstance(self.ranking.selector, BudgetSelector)

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: the budget is no number, or cannot be met; see `selection.budget`."""
        examples = self.ranking.pool.open(store)
        lengths = self._lengths(store)
        budget = self.tokens
        if budget is None:
            budget = budget_of(len(examples), fraction=self.fraction, rows=self.rows)
        if isinstance(self.ranking.selector, BudgetSelector):
            began = time.monotonic()
            ranked = None
            chosen = self._selected(store, examples, budget)
            seconds = time.monotonic() - began
        else:
            folder = store.get(self.ranking)
            ranked = Ranking.read(folder)
            chosen = cut(ranked.order, budget, lengths=lengths, **self._rules(examples))
            seconds = json.loads((folder / "meta.json").read_text())["seconds"]
        (out / "rows.json").write_text(json.dumps(chosen.tolist()))
        write_records(examples, chosen, out / "instructions.json")
        write_ranking(examples, chosen, ranked, out / "ranking.parquet")
        said: dict[str, Any] = {
            "selector": name_of(self.ranking.selector),
            "nested": self.nested,
            "seed": self.ranking.seed,
            "seconds": round(seconds, 3),  # of the ranking alone; of its features: in the store
        }
        if lengths is not None:
            said["tokens"] = int(lengths[chosen].sum())
        written = manifest(self, examples, chosen, **said)
        (out / "manifest.json").write_text(json.dumps(written, indent=2))

    def chosen(self, store: Store) -> Int[np.ndarray, " budget"]:
        return np.array(json.loads((store.get(self) / "rows.json").read_text()), dtype=np.int64)

    def _lengths(self, store: Store) -> Int[np.ndarray, " rows"] | None:
        """Text tokens of every row if the budget is in tokens."""
        if self.tokens is None:
            return None
        if self.rows is not None:
            raise ValueError(f"subset.rows={self.rows} and subset.tokens={self.tokens}: give one")
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, int):
            raise ValueError(
                f"subset.tokens={self.tokens!r} is not a whole number; give a count, e.g. 1000000"
            )
        if self.counted is None:
            raise ValueError("subset.tokens needs subset.counted, a proxy whose tokens are counted")
        return self.counted.tokens().open(store).text_lengths

    def _rules(self, examples: Examples) -> dict[str, Any]:
        return {
            "has_image": examples.has_image,
            "sources": examples.sources,
            "text_only": self.text_only,
            "floors": self.floors,
            "caps": self.caps,
        }

    def _selected(
        self, store: Store, examples: Examples, budget: int
    ) -> Int[np.ndarray, " budget"]:
        """The rows of a selector that ranks nothing, with text-only rows at random beside them.

        Raises ValueError: the rules need a ranking, or the selector does not give what it was asked
        for.
        """
        selector, name = self.ranking.selector, name_of(self.ranking.selector)
        assert isinstance(selector, BudgetSelector)
        if self.tokens is not None or self.floors or self.caps:
            raise ValueError(
                f"selector={name} selects for a number of rows and ranks nothing: "
                "subset.tokens, subset.floors and subset.caps need a ranking"
            )
        rules = self._rules(examples)
        wanted = budget
        if self.text_only != "ranked":  # any order has as many image rows at this budget
            wanted = int(examples.has_image[cut(np.arange(len(examples)), budget, **rules)].sum())
        rng = self.ranking.rng()
        picked = selector.select(self.ranking.pool, wanted, rng, store)
        distinct = np.unique(picked)
        if len(picked) != wanted or len(distinct) != wanted:
            raise ValueError(
                f"{name} selected {len(picked)} rows, {len(distinct)} of them different; "
                f"{wanted} were wanted"
            )
        if len(distinct) and not 0 <= distinct[0] <= distinct[-1] < len(examples):
            raise ValueError(
                f"{name} selected rows {distinct[0]} to {distinct[-1]}; the pool has "
                f"{len(examples)}"
            )
        if self.text_only != "ranked" and not examples.has_image[picked].all():
            raise ValueError(
                f"{name} selected {int((~examples.has_image[picked]).sum())} text-only rows; "
                f"text_only={self.text_only} sets their number itself, use ranked"
            )
        others = rng.permutation(np.setdiff1d(np.arange(len(examples)), picked))
        return cut(np.concatenate([distinct, others]), budget, **rules)
