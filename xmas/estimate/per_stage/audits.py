"""What an audit costs: hashes of images and texts, near duplicates, one page of numbers."""

from xmas.data.near_copies.duplicates import Duplicates
from xmas.data.near_copies.image_hashes import ImageHashes
from xmas.data.near_copies.text_sketches import Texts
from xmas.estimate.work import Context, Work, work
from xmas.results.audit import Audit

_SKETCH = 5e-5  # seconds of a core to sketch a row's words, experiments/selection/README.md
_PAIR = 9e-6  # seconds of a core to look for a row's near ones, the same record


@work.register
def _(stage: ImageHashes, context: Context) -> Work:
    census = context.census(stage.pool)
    return Work(
        f"{census.images:,} images hashed",
        core_seconds=census.images * census.decode,
        disk=48.0 * census.images,
    )


@work.register
def _(stage: Texts, context: Context) -> Work:
    rows = context.census(stage.pool).rows
    return Work(
        f"words of {rows:,} rows sketched",
        core_seconds=_SKETCH * rows,
        disk=308.0 * rows,
        host=308.0 * rows,
    )


@work.register
def _(stage: Duplicates, context: Context) -> Work:
    rows = context.census(stage.pool).rows
    return Work(
        f"duplicates among {rows:,} rows",
        core_seconds=_PAIR * rows,
        disk=8.0 * rows,
        host=400.0 * rows,
    )


@work.register
def _(stage: Audit, context: Context) -> Work:
    return Work("the subset compared with its pool", disk=4000.0)
