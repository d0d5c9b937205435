"""What the store calls when a fit begins or a result is finished, so that both can be logged."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from xmas.store.stage import Stage

if TYPE_CHECKING:
    from xmas.store.store import Store


@runtime_checkable
class RunLogger(Protocol):
    """Logs fits and results to W&B, TensorBoard or CSV; `logger=NAME` on the command line sets it.

    Implemented in `xmas.results.logger`. Not part of any stage: no key and no result depends on it.
    """

    def fit_logger(self, stage: Stage) -> Any:
        """Lightning's logger for the fit of a stage that is being computed."""
        ...

    def enter(self, folder: Path) -> None:
        """Log a finished result, unless it is logged already."""
        ...

    def enter_all(self, goal: Stage, store: "Store") -> None:
        """Log every finished result of a goal and of the stages it depends on."""
        ...

    def enter_page(self, name: str, files: list[Path]) -> None:
        """Log the files of a table or report, replacing earlier ones of the same name."""
        ...

    def close(self) -> None:
        """Mark the runs of stages that did not finish as failed."""
        ...
