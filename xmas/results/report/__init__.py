"""The report: what a store contains, as one HTML file that opens offline, on a phone and on paper.

Only results are read, no stage is run: a report of half a sweep shows that half, and there is one
as soon as there is a subset. A section without content is left out; where results or files are
lost, it says so.
"""

import dataclasses
import html
import re
from pathlib import Path

from xmas.data.pool import Pool
from xmas.results.leaderboard import leaderboards
from xmas.results.pages import page_path, write_page
from xmas.results.score_records import TableError, runs
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class Report:
    """What `goal=report` makes. Not a stage: the store is read each time."""

    pool: Pool | None = None  # whose rows and images are shown, where scores were made from it
    only: str | None = None  # the name of the only pool to report
    examples: int = 8  # images a strip

    def make(self, store: Store) -> str:
        """Write `report.html`, see `page_path`; its path.

        Raises TableError: there is nothing to report, or the scores cannot be compared.
        """
        from xmas.results.evidence import gather
        from xmas.results.report.exams import examined
        from xmas.results.report.page import page
        from xmas.results.unscored import unscored
        from xmas.store.index import ResultIndex

        scores = [run for run in runs(store) if self.only in (None, run.pool)]
        index = ResultIndex(store)
        evidence = [gather(board, index, store) for board in leaderboards(scores)]
        evidence += [
            of
            for of in unscored(index, store, evidence)
            if self.only in (None, of.leaderboard.pool)
        ]
        evidence += [
            of
            for of in examined(index, store, evidence)
            if self.only in (None, of.leaderboard.pool)
        ]
        if not evidence:
            raise TableError(
                f"{store.root}: no scores of trained targets to report, and no subset or exam; "
                "make one with `xmas selector=xmas`, or set store.root to where they are"
            )
        (path,) = self.files(store)
        write_page(path, page(evidence, pool=self.pool, examples=self.examples))
        return str(path)

    def sentence(self, store: Store) -> str:
        """How the page opens: what was chosen, or how it scores."""
        (path,) = self.files(store)
        leads = re.findall(r'<p class="lead">(.*?)</p>', path.read_text(encoding="utf-8"), re.S)
        texts = [html.unescape(re.sub(r"<[^>]*>", "", lead)) for lead in leads]
        return " ".join(" ".join(texts).split())

    def files(self, store: Store) -> list[Path]:
        """What `make` writes."""
        return [page_path(store, "report.html")]
