"""The rows of a pool that can be used, as a separate pool: what `pool.invalid=skip` gives."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from xmas.data.chosen_rows import ChosenRows
from xmas.data.faults import by_kind, counted, refusal, write, write_parquet
from xmas.data.images.broken import REPORT, broken_images
from xmas.data.images.seen import note
from xmas.data.pool import Pool
from xmas.data.readers.llava import LlavaRows
from xmas.data.rows import MAX_PIXELS, Rows
from xmas.data.writers import llava
from xmas.store import Stage, Store

log = logging.getLogger(__name__)

FILE = llava.FILE
SKIPPED = "skipped.parquet"


@dataclasses.dataclass(frozen=True)
class ValidRows(Stage):
    """`rows.json`, the numbers of the rows of a pool that can be used; `instructions.json`, these
    rows, where the pool is in LLaVA's format; `faults.jsonl` and `skipped.parquet`, where pyarrow
    is installed, the other rows, each with what is wrong (`xmas.data.faults`); `skipped.json`,
    these counted by kind.

    Every image is decoded. `force=valid_rows` looks again, e.g. after images were fetched anew.
    """

    kind: ClassVar[str] = "valid_rows"

    pool: Pool

    def corrections(self) -> dict[str, Any]:
        """Which images can be used depends on the limits."""
        limits = {"max_pixels": self.pool.max_pixels, "outside": self.pool.outside}
        defaults = {"max_pixels": MAX_PIXELS, "outside": False}
        return {name: limit for name, limit in limits.items() if limit != defaults[name]}

    def compute(self, store: Store, out: Path) -> None:
        """Raises PoolError: the file is no pool, or none of its rows can be used."""
        examples = self.pool.open_all(store)
        faults = [*examples.faults, *broken_images(examples)]
        report = write(faults, out / REPORT)
        valid = np.setdiff1d(np.arange(len(examples)), [fault.row for fault in faults])
        if len(faults) == len(examples) > 0:
            raise refusal(examples.annotations, len(examples), faults, report=report)
        if isinstance(examples, LlavaRows):
            llava.write(examples, valid, out)
        write_parquet(faults, out / SKIPPED)
        note(self.pool, examples, out)
        (out / "rows.json").write_text(json.dumps(valid.tolist()))
        skipped = {"rows": len(faults), "of": len(examples), "kinds": by_kind(faults)}
        (out / "skipped.json").write_text(json.dumps(skipped, indent=2))
        if faults:
            log.warning(
                "%s: %d of %d rows are left out: %s; all in %s of %s",
                *(examples.annotations, len(faults), len(examples), counted(faults)),
                *(REPORT, store.path(self)),
            )

    def rows_of_table(self, store: Store) -> Rows | None:
        """The rows that are left of a pool in another format than LLaVA's; None in LLaVA's."""
        if (store.get(self) / FILE).exists():
            return None
        return ChosenRows(self.pool.open_all(store), self.file_rows(store))

    def skipped(self, store: Store) -> dict[str, Any]:
        """How many rows were left out, of how many, and how many of each kind of fault."""
        return json.loads((store.get(self) / "skipped.json").read_text())

    def file_rows(self, store: Store) -> np.ndarray:
        """The number in the original annotation file of every row that is left."""
        return np.array(json.loads((store.get(self) / "rows.json").read_text()), dtype=np.int64)
