"""ICONS: influence on the validation rows of benchmarks, which thereby are seen."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from xmas.data.pool import Pool
from xmas.data.rows import PoolError
from xmas.selection.methods.influence import UNSET, Influence
from xmas.store import volatile


@runtime_checkable
class Tasks(Protocol):
    """Pools of validation rows by task; see `xmas.evaluation.validation_rows.ValidationSets`."""

    def pools(self) -> dict[str, Pool]: ...

    def by_source(self) -> list[str]:
        """The tasks whose sources are sub-tasks."""
        ...


@dataclasses.dataclass(frozen=True)
class Icons(Influence):
    """`Influence` whose tasks are benchmarks, each with rows of its validation split.

    The tasks are those of `validation`, drawn from benchmark files, or the folders in `toward`. The
    publication has 986 rows of MME, 500 of POPE, 424 of ScienceQA, 1,164 of MMBench, 1,000 of
    VQAv2, 398 of GQA, 800 of VizWiz, 84 of TextVQA and 84 of LLaVA-Bench. MME's score is the
    largest of its sub-tasks', which are its rows' sources. What it selects saw validation data, and
    says so wherever it is listed.

    Source: ICONS (arXiv 2501.00654) and its release; sizes as MAGIC (arXiv 2605.26004), table 8.

    Args:
        toward: a folder with a folder for each benchmark, in the place of `validation`; there
            `by_source` has to name MME.
        validation: rows of benchmarks.
    """

    saw_validation: ClassVar[bool] = True

    validation: Tasks | None = volatile(None)  # known by its pools, as `toward` is

    @property
    def sub_tasks(self) -> list[str]:
        own = [] if self.validation is None or self.has_folder else self.validation.by_source()
        return [*self.by_source, *(name for name in own if name not in self.by_source)]

    @property
    def has_folder(self) -> bool:
        return bool(self.toward) and self.toward != UNSET

    def pools(self) -> dict[str, Pool]:
        """The rows of every benchmark.

        Raises PoolError: `toward` has no folders. Raises ValueError: as `validation` does.
        """
        if not self.has_folder and self.validation is not None:
            return self.validation.pools()
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

    def _refuse_none(self) -> None:
        if not self.pools():
            raise ValueError(
                "selector=icons has no benchmarks whose validation rows it could rank towards: "
                "name some, e.g. suite=ten, or give a folder with a folder of rows for each, "
                "selector.toward=DIR"
            )
