"""Counts of a pool before anything runs: rows, images, lengths.

Row and image counts come from the annotation file, lengths from a sample of its rows, so that the
largest pool takes seconds. If the tokenizer or the pool itself is absent, numbers are assumed;
`Census.how` says which.
"""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Int

from xmas.data.planted.planted_pool import PlantedPool
from xmas.data.pool import Pool
from xmas.data.pool_sample import PoolSample
from xmas.data.rows import PoolError, Rows
from xmas.estimate.assumed import DRAWING, Assumed, Census, supposed
from xmas.models.chat.labels import ImageCutError, Tokens
from xmas.models.chat.layout import FEATURE
from xmas.models.chat.own_template import OwnTemplate
from xmas.models.chat.template import Plain, Template
from xmas.models.chat.tokens import Tokenised
from xmas.store import Made, Store

SAMPLE = 4096  # rows whose text is read: their mean length is then within a few per cent


def at_hand(path_or_made: str | Made, store: Store) -> bool:
    """Whether a file or folder can be read now, without computing a stage."""
    if isinstance(path_or_made, Made):
        return store.path(path_or_made.stage).exists()
    return Path(path_or_made).expanduser().exists()


def count(
    pool: Pool, tokens: Tokenised | None, store: Store, assumed: Assumed, *, sample: int = SAMPLE
) -> Census:
    """The census of a pool, with the lengths that `tokens` has or would have.

    sample: rows whose text is read, of a pool that has more.

    Raises PoolError: the annotation file is there, but a row of it is malformed.
    """
    if pool.at_hand(store):
        return _counted(pool, pool.open(store), tokens, store, assumed, sample)
    if (split := pool.held_out_split) is not None:
        assert isinstance(pool.annotations, Made)
        whole = count(split.pool, tokens, store, assumed, sample=sample)
        return _side(whole, split.sizes(whole.rows)[pool.annotations.name])
    if isinstance(pool.annotations, Made):
        stage = pool.annotations.stage
        if isinstance(stage, PoolSample | PlantedPool):
            whole = count(stage.pool, tokens, store, assumed, sample=sample)
            return dataclasses.replace(_side(whole, stage.size(whole.rows)), how=whole.how)
    if pool.valid_rows is not None and (whole := pool.valid_rows.pool).at_hand(store):
        # Its malformed rows are left out; which images are broken is not known yet.
        return _counted(whole, whole.open_all(store), tokens, store, assumed, sample)
    return supposed(pool, assumed)


def _side(whole: Census, rows: int) -> Census:
    """A side of a split that is yet to be made: near copies are on one side, so its share of the
    pictures is that of its rows.
    """
    share = rows / whole.rows
    return dataclasses.replace(
        whole,
        rows=rows,
        images=round(share * whole.images),
        how=f"about {rows:,} of {whole.rows:,} rows, the others on the other side of a split; "
        f"{whole.how}",
    )


def _counted(
    pool: Pool,
    examples: Rows,
    tokens: Tokenised | None,
    store: Store,
    assumed: Assumed,
    sample: int,
) -> Census:
    if not len(examples):
        raise PoolError(f"{examples.annotations}: the list is empty; it has no rows to choose from")
    rows = np.setdiff1d(np.arange(len(examples)), [fault.row for fault in examples.faults])
    some = rows
    if len(some) > sample:
        some = rows[np.sort(np.random.default_rng(0).choice(len(rows), sample, replace=False))]
    of = "all rows" if len(some) == len(rows) else f"a sample of {len(some):,} rows"
    if tokens is not None and store.path(tokens).exists():
        table = tokens.open(store)
        sizes = [_sizes(table[int(row)]) for row in some]
        how = f"lengths from the tokens of {of}"
    elif tokens is not None and at_hand(tokens.tokenizer, store):
        sizes = _tokenised(tokens, examples, some, store)
        how = f"lengths from tokenising {of}"
    else:
        template = Template()  # in the place of the tokenizer's own, which is with the tokenizer
        if tokens is not None and not isinstance(tokens.template, OwnTemplate):
            template = tokens.template
        sizes = _letters(template, examples, some, assumed.letters)
        how = f"lengths from the characters of {of}, {assumed.letters:g} a token assumed"
    text, answers = np.array(sizes, dtype=float).T
    return Census(
        name=pool.name,
        rows=len(rows),
        images=len(examples.picture_names),
        text=text,
        answers=answers,
        image_counts=examples.shown.counts[some],
        size=examples.size(),
        decode=DRAWING if isinstance(pool.whole.annotations, Made) else assumed.decode,
        how=f"rows and images counted, {how}",
    )


def _sizes(tokens: Tokens) -> tuple[float, float]:
    return len(tokens.ids), int(tokens.labelled.sum())


def _tokenised(
    tokens: Tokenised, examples: Rows, some: Int[np.ndarray, " sample"], store: Store
) -> list[tuple[float, float]]:
    """(text tokens, answer tokens) of some rows. Raises PoolError as the stage itself would."""
    encoder = tokens.encoder(store)
    # Where an image's tokens follow from its size they take no room here: no image is opened.
    image_tokens = np.full(tokens.image if isinstance(tokens.image, int) else 0, FEATURE, np.int32)
    sizes = []
    for row in some.tolist():
        images = [image_tokens] * len(examples.shown[row])
        try:
            sizes.append(_sizes(encoder.turns(examples.turns(row), images)))
        except ImageCutError:
            sizes.append((0.0, 0.0))  # left out
        except ValueError as error:
            place = f"{examples.annotations}: row {examples.file_row(row)}"
            raise PoolError(f"{place}: {error}") from error
    return sizes


def _letters(
    template: Template | Plain, examples: Rows, some: Int[np.ndarray, " sample"], each: float
) -> list[tuple[float, float]]:
    """The same from characters, those of the template counted."""
    sizes = []
    for row in some.tolist():
        chunks, answers = template.render(examples.turns(row))
        characters = sum(stop - start for _, start, stop in answers)
        sizes.append((sum(map(len, chunks)) / each, characters / each))
    return sizes
