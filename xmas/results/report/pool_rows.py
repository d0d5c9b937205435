"""The rows of the pool that a leaderboard's targets were trained on, where its files are there."""

import numpy as np

from xmas.data.chosen_rows import ChosenRows
from xmas.data.held_out import HeldOutSplit
from xmas.data.pool import Pool
from xmas.data.rows import PoolError, Rows
from xmas.results.evidence import Evidence
from xmas.store import Made, describe, type_name
from xmas.store.index import AbsentError


def pool_rows(evidence: Evidence, configured: Pool | None) -> Rows:
    """The rows of the pool.

    Args:
        configured: the pool of the report; its files are opened if its identity is the same, or if
            the targets' pool is what is left of it where rows are held out.

    Raises:
        AbsentError: no pool is configured, it is another one, or its files are not there.
    """
    if configured is None:
        raise AbsentError("No pool was given to the report, so its rows cannot be shown.")
    try:
        if describe(configured.whole) == evidence.pool:
            configured = (
                configured.whole
            )  # rows are held out for scores, not of a subset to train on
        same = describe(configured) == evidence.pool
        annotations = configured.annotations
        if (
            same
            and isinstance(annotations, Made)
            and not evidence.store.path(annotations.stage).exists()
        ):
            raise AbsentError(f"Pool {evidence.leaderboard.pool} is no longer in the store.")
        if same:
            return configured.open(evidence.store)
        split = evidence.pool["pool"].get("stage", {})
        if split.get("type") == type_name(HeldOutSplit) and split["pool"] == describe(configured):
            numbers = evidence.index.result(split, "rows held out").file("pool.npy")
            return ChosenRows(configured.open(evidence.store), np.load(numbers))
    except PoolError as error:
        raise AbsentError(f"The pool cannot be opened: {error}.") from error
    raise AbsentError(
        f"The configured pool ({configured.name}) is not the one these scores were made "
        "from, so its rows cannot be shown; name the experiment that they were made with."
    )
