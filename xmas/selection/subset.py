"""The subset: a ranking cut at a budget, as row numbers and as files that trainers read."""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from xmas.data.as_dataset import as_dataset
from xmas.data.rows import Rows
from xmas.data.writers import DEFAULT, OF_MESSAGES, form_of, is_ranked, llava, write_form
from xmas.selection.budget import budget_of, check_settings, cut
from xmas.selection.protocol import BudgetSelector, TokenCounter, name_of, saw_validation
from xmas.selection.ranking import Ranking
from xmas.selection.subset_files import manifest, write_ranking
from xmas.selection.subset_readme import FILE as README
from xmas.selection.subset_readme import opening, readme, sentence
from xmas.store import Stage, Store, nearest_stages, volatile
from xmas.store.planned_stages import planned_stages


@dataclasses.dataclass(frozen=True)
class Subset(Stage):
    """The chosen rows of a pool at one budget: a `fraction`, a number of `rows` or of `tokens`.

    Writes `rows.json`, ascending; `instructions.json`, the records of these rows as a JSON list,
    byte for byte where the pool is in LLaVA's format, unless images are not files or the pool is of
    messages; `ranking.parquet`, where pyarrow is installed: every row of the pool with its rank,
    score, cluster and whether it was chosen; `manifest.json`: counts, hashes and origin;
    `README.txt`: how to train on it. Of a pool with `invalid="skip"` or `hold_out`, whose rows are
    numbered anew, also `file_rows.json`: their numbers in the annotation file.

    >>> from xmas import Pool, Ranking, Store, Subset
    >>> from xmas.selection.methods.random import Random
    >>> subset = Subset(Ranking(Pool("mix.json", "images"), Random()), fraction=0.7)
    >>> store = Store("store")
    >>> folder = store.get(subset)
    >>> sorted(path.name for path in folder.glob("*.json"))
    ['instructions.json', 'manifest.json', 'meta.json', 'rows.json']
    >>> subset.chosen(store)  # row numbers in the annotation file
    array([0, 2])

    Args:
        ranking: the order that is cut.
        fraction: of the pool's rows, in (0, 1], rounded down in decimal arithmetic.
        rows: an exact number of rows; wins over `fraction`.
        tokens: a budget in text tokens, questions and answers in the template of `counted`, for
            comparisons at equal tokens: the longest prefix of the ranking that does not exceed it.
        counted: whose tokens `tokens` counts; no part of the identity of other budgets.
        text_only: which text-only rows: `proportional`, `exclude`, `keep_all` or `ranked`; see
            `selection.budget.queue`.
        floors: source to the number of rows it gives at least.
        caps: source to the number of rows it gives at most.
        write: trainers' formats, modules of `xmas.data.writers`, one or several, each a result of
            its own (`SubsetFiles`), so that another one can be asked for later; none: the form of
            the pool's own files.
    """

    kind: ClassVar[str] = "subset"
    version: ClassVar[int] = 2

    ranking: Ranking
    fraction: float | None = 0.2
    rows: int | None = None
    tokens: int | None = None
    counted: TokenCounter | None = None
    text_only: str = "proportional"
    floors: dict[str, int] = dataclasses.field(default_factory=dict)
    caps: dict[str, int] = dataclasses.field(default_factory=dict)
    write: Sequence[str] | str | None = volatile((), compare=False)

    def __post_init__(self) -> None:
        check_settings(
            fraction=self.fraction if self.tokens is None else 1.0,
            rows=self.rows,
            text_only=self.text_only,
            floors=self.floors,
            caps=self.caps,
        )
        if self.tokens is None:  # or a subset of N rows would have another key for each proxy
            object.__setattr__(self, "counted", None)
        if not isinstance(self.write, str | Sequence | None):
            raise ValueError(
                f"subset.write={self.write!r} is no format; name one or several, e.g. "
                "'subset.write=[messages,trl]'"
            )
        names = (self.write,) if isinstance(self.write, str) else tuple(self.write or ())
        object.__setattr__(self, "write", names)
        for name in names:
            if is_ranked(name) and not self.nested:
                raise ValueError(
                    f"selector={name_of(self.ranking.selector)} selects for a number of rows and "
                    f"ranks nothing: subset.write=[{name}] needs a ranking"
                )

    @property
    def nested(self) -> bool:
        """Whether this subset and those of the same ranking at other budgets contain each other."""
        return not isinstance(self.ranking.selector, BudgetSelector)

    def inputs(self) -> list[Stage]:
        token_stages = [] if self.counted is None else [self.counted.tokens()]
        pool, selector = self.ranking.pool, self.ranking.selector
        ranking_stages = [self.ranking] if self.nested else nearest_stages(selector)
        return [*nearest_stages(pool), *ranking_stages, *token_stages]

    def check(self, store: Store) -> None:
        """Raises PoolError: the pool is there, and empty."""
        self.ranking.check(store)

    def compute(self, store: Store, out: Path) -> None:
        """Cut the ranking at the budget and write the files.

        Raises:
            ValueError: the budget cannot be met; see `selection.budget`.
        """
        examples = self.ranking.pool.open(store)
        lengths = self._lengths(store)
        budget = self.tokens
        if budget is None:
            budget = budget_of(len(examples), fraction=self.fraction, rows=self.rows)
        if isinstance(self.ranking.selector, BudgetSelector):
            start = time.monotonic()
            ranking = None
            subset_rows = self._selected(store, examples, budget)
            seconds = time.monotonic() - start
        else:
            folder = store.get(self.ranking)
            ranking = Ranking.read(folder)
            subset_rows = cut(ranking.order, budget, lengths=lengths, **self.rules(examples))
            seconds = json.loads((folder / "meta.json").read_text())["seconds"]
        (out / "rows.json").write_text(json.dumps(subset_rows.tolist()))
        place, form, remarks = store.path(self).absolute(), form_of(examples), []
        if examples.all_in_files and form not in OF_MESSAGES:
            remarks = write_form(DEFAULT, examples, subset_rows, out, place)
        write_ranking(examples, subset_rows, ranking, out / "ranking.parquet")
        facts: dict[str, Any] = {
            "selector": name_of(self.ranking.selector),
            "nested": self.nested,
            "saw_validation": saw_validation(self.ranking.selector),
            "seed": self.ranking.seed,
            "seconds": round(seconds, 3),  # of the ranking alone; its features have their own
            "form": form,  # of the pool's own files
        }
        if lengths is not None:
            facts["tokens"] = int(lengths[subset_rows].sum())
        pool = self.ranking.pool
        if pool.valid_rows is not None:
            facts["skipped"] = pool.valid_rows.skipped(store)
        if pool.held_out_split is not None:
            facts["held_out"] = len(pool.held_out_split.held_out.open(store))
        if pool.whole is not pool:
            file_rows = pool.file_rows(store, subset_rows)
            (out / "file_rows.json").write_text(json.dumps(file_rows.tolist()))
        record = manifest(self, examples, subset_rows, **facts)
        (out / "manifest.json").write_text(json.dumps(record, indent=2))
        from xmas.selection.subset_forms import how_to_train  # which imports this module

        about = sentence(self, examples, subset_rows)
        training = how_to_train(self, examples, store, has_llava=(out / llava.FILE).exists())
        (out / README).write_text(readme(about, out, training, remarks), encoding="utf-8")

    def make(self, store: Store) -> str:
        """The folder of the subset, then one of each format in `write` that it has not itself, a
        line each.
        """
        from xmas.selection.subset_forms import folders_of_forms  # which imports this module

        folders = [store.get(self), *folders_of_forms(self, store)]
        return "\n".join(str(folder) for folder in folders)

    def sentence(self, store: Store) -> str:
        """What the subset is, in words, and how long it took with all that it needs."""
        records = [store.path(stage) / "meta.json" for stage in planned_stages(self)]
        seconds = sum(
            json.loads(record.read_text())["seconds"] for record in records if record.exists()
        )
        needed = ", with the models and features that it needs" if len(records) > 2 else ""
        return f"{opening(store.get(self))} Computed in {seconds:.1f} s{needed}."

    def chosen(self, store: Store) -> Int[np.ndarray, " budget"]:
        """The row numbers of the subset, ascending; computed if it is not there."""
        return np.array(json.loads((store.get(self) / "rows.json").read_text()), dtype=np.int64)

    def dataset(self, store: Store) -> Any:
        """The rows of the subset as a `datasets.Dataset`; see `xmas.data.as_dataset`."""
        return as_dataset(self.ranking.pool.open(store), self.chosen(store))

    def _lengths(self, store: Store) -> Int[np.ndarray, " rows"] | None:
        """Text tokens of every row if the budget is in tokens, else None."""
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

    def rules(self, examples: Rows) -> dict[str, Any]:
        """What `selection.budget.queue` needs to know of the pool and of this subset."""
        return {
            "has_image": examples.has_image,
            "sources": examples.sources if self.floors or self.caps else None,  # a text a row
            "text_only": self.text_only,
            "floors": self.floors,
            "caps": self.caps,
        }

    def _selected(self, store: Store, examples: Rows, budget: int) -> Int[np.ndarray, " budget"]:
        """The rows of a selector that gives no ranking, filled up with random text-only rows.

        Raises:
            ValueError: the rules need a ranking, or the selector gave other rows than asked for.
        """
        selector, name = self.ranking.selector, name_of(self.ranking.selector)
        assert isinstance(selector, BudgetSelector)
        if self.tokens is not None or self.floors or self.caps:
            raise ValueError(
                f"selector={name} selects for a number of rows and ranks nothing: "
                "subset.tokens, subset.floors and subset.caps need a ranking"
            )
        rules = self.rules(examples)
        count = budget
        if self.text_only != "ranked":  # the number of image rows is that of any order
            count = int(examples.has_image[cut(np.arange(len(examples)), budget, **rules)].sum())
        rng = self.ranking.rng()
        selection = selector.select(self.ranking.pool, count, rng, store)
        distinct = np.unique(selection)
        if len(selection) != count or len(distinct) != count:
            raise ValueError(
                f"{name} selected {len(selection)} rows, {len(distinct)} of them different; "
                f"{count} were wanted"
            )
        if len(distinct) and not 0 <= distinct[0] <= distinct[-1] < len(examples):
            raise ValueError(
                f"{name} selected rows {distinct[0]} to {distinct[-1]}; the pool has "
                f"{len(examples)}"
            )
        if self.text_only != "ranked" and not examples.has_image[selection].all():
            raise ValueError(
                f"{name} selected {int((~examples.has_image[selection]).sum())} text-only rows; "
                f"text_only={self.text_only} sets their number itself, use ranked"
            )
        others = rng.permutation(np.setdiff1d(np.arange(len(examples)), selection))
        return cut(np.concatenate([distinct, others]), budget, **rules)
