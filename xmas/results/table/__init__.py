"""The scores of a store as Markdown, CSV and LaTeX, a leaderboard for every pool and reference.

`leaderboard` says what may be compared and how, `intervals` how certain that is, `view` what is
shown of it. The CSV has everything at full precision; the other two are for reading.
"""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xmas.results.evidence import Evidence, gather
from xmas.results.grids import grids
from xmas.results.leaderboard import leaderboards
from xmas.results.pages import page_path, write_page
from xmas.results.table.choice import choose
from xmas.results.table.csv_lines import as_csv
from xmas.results.table.formats import latex, markdown
from xmas.store import Store
from xmas.store.index import ResultIndex


@dataclasses.dataclass(frozen=True)
class Table:
    """What `goal=table` makes. Not a stage: the store is read each time.

    ARP of the selectors, from Python:

        lines = Table(selector=["random", "xmas"]).frame(Store("store"))
        lines[lines.benchmark == "ARP"][["selector", "budget", "relative", "missing"]]
    """

    pool: str | None = None  # show only the pool of this name
    selector: str | Sequence[str] | None = None  # show only these, and the reference
    experiment: str | None = None  # show only what `goal=scores experiment=...` asked for
    protocol: str | None = None  # show only answers generated with it, e.g. "batch 1"
    benchmarks: str | Sequence[str] | None = None  # show only these; an ARP is over them
    intervals: bool = False  # in every cell; the CSV always has them
    draws: int = 2000  # of the bootstrap
    seed: int = 0  # of the bootstrap's random generator

    def make(self, store: Store) -> str:
        """Write `table.md`, `table.csv` and `table.tex`, see `page_path`; the Markdown and the
        paths.

        Raises TableError: there is nothing to show, or the scores cannot be compared.
        """
        evidence = self.evidence(store)
        tables = [grid for of in evidence for grid in grids(of, intervals=self.intervals)]
        texts = {"md": markdown(tables), "csv": as_csv(evidence), "tex": latex(tables)}
        for path in self.files(store):
            write_page(path, texts[path.suffix[1:]])
        return texts["md"] + "\n" + "\n".join(map(str, self.files(store)))

    def files(self, store: Store) -> list[Path]:
        """What `make` writes."""
        return [page_path(store, f"table.{kind}") for kind in ("md", "csv", "tex")]

    def frame(self, store: Store) -> Any:
        """The lines of `table.csv` as a pandas DataFrame; raises as `make` does."""
        import pandas

        return pandas.read_csv(io.StringIO(as_csv(self.evidence(store))))

    def evidence(self, store: Store) -> list[Evidence]:
        """What there is to show, by leaderboard. Raises TableError as `make` does."""
        index = ResultIndex(store)
        runs = choose(
            store,
            pool=self.pool,
            selector=self.selector,
            experiment=self.experiment,
            protocol=self.protocol,
            benchmarks=self.benchmarks,
        )
        return [
            gather(leaderboard, index, store, draws=self.draws, seed=self.seed)
            for leaderboard in leaderboards(runs)
        ]
