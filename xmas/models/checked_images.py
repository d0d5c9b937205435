"""The images of a pool, all decoded once before a fit reads them batch by batch."""

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

from xmas.data.images.broken import REPORT, broken_images, refuse
from xmas.data.images.seen import note, noted_digest, present_digest
from xmas.data.pool import Pool
from xmas.data.rows import Rows
from xmas.store import Stage, Store, volatile


@dataclasses.dataclass(frozen=True)
class CheckedImages(Stage):
    """`images.json`: the number of different images of a pool; every one of them was decoded.

    A fit that reads image files batch by batch would find a broken one hours after its start.

    Args:
        seen: names and sizes of the images, as one hash, where they are others than those that were
            decoded first under this pool: on another host, or fetched again.
    """

    kind: ClassVar[str] = "images"

    pool: Pool
    threads: int = volatile(16)
    seen: str | None = volatile(None)

    def corrections(self) -> dict[str, str]:
        return {} if self.seen is None else {"seen": self.seen}

    def compute(self, store: Store, out: Path) -> None:
        """Raises PoolError: images are missing or truncated; names the first, and a file with all
        their rows.
        """
        examples = self.pool.open(store)
        if faults := broken_images(examples, threads=self.threads):
            raise refuse(examples, faults, out / REPORT)
        (out / REPORT).unlink(missing_ok=True)
        note(self.pool, examples, out)
        (out / "images.json").write_text(json.dumps({"images": len(examples.picture_names)}))


def checked_images(pool: Pool, store: Store) -> Rows:
    """The rows of a pool whose images, as they are now, were all decoded once.

    Raises PoolError: an image is broken.
    """
    folder, examples = store.get(CheckedImages(pool)), pool.open(store)
    seen = present_digest(pool, examples)
    if seen != noted_digest(folder):
        store.get(CheckedImages(pool, seen=seen))
    return examples
