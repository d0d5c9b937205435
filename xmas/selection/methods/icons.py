"""ICONS: influence on the validation rows of benchmarks, which thereby are seen."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from xmas.data.pool import Pool
from xmas.data.rows import PoolError
from xmas.selection.methods.influence import UNSET, Influence


@dataclasses.dataclass(frozen=True)
class Icons(Influence):
    """`Influence` whose tasks are benchmarks, each with rows of its validation split.

    `toward` is a folder with a folder for each benchmark; 986 rows of MME, 500 of POPE, 424 of
    ScienceQA, 1,164 of MMBench, 1,000 of VQAv2, 398 of GQA, 800 of VizWiz, 84 of TextVQA and 84 of
    LLaVA-Bench in the publication. MME's score is the largest of its sub-tasks', which are its
    rows' sources. What it selects saw validation data, and says so wherever it is listed.

    Source: ICONS (arXiv 2501.00654) and its release; sizes as MAGIC (arXiv 2605.26004), table 8.
    """

    saw_validation: ClassVar[bool] = True

    def pools(self) -> dict[str, Pool]:
        """The folders below `toward`. Raises PoolError: there are none."""
        if not isinstance(self.toward, str) or self.toward == UNSET:
            return super().pools()
        folder = Path(self.toward).expanduser()
        tasks = (
            sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        )
        if not tasks:
            raise PoolError(
                f"selector.toward={self.toward}: expected a folder with a folder of validation "
                "rows for each benchmark; for one set of your own examples use selector=influence"
            )
        return {task.name: self.pool_of(task.name, str(task)) for task in tasks}
