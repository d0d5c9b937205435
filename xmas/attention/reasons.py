"""Which rows of a pool have attention spectra, and why the others have none."""

import numpy as np
import torch
from jaxtyping import Int, UInt8

from xmas.attention.metric import Spectra
from xmas.attention.spans import Spans
from xmas.models.chat.tokens import TokenTable

MEASURED, TEXT_ONLY, NO_TEXT = 0, 1, 2  # has spectra; has no image; no text token counts


def reasons(
    table: TokenTable, spans: Spans, spectra: Spectra, *, block_rows: int = 4096
) -> UInt8[np.ndarray, " rows"]:
    """`MEASURED`, `TEXT_ONLY` or `NO_TEXT` for every row; `block_rows` are processed at a time."""
    codes = np.where(table.image_at >= 0, MEASURED, TEXT_ONLY).astype(np.uint8)
    codes[(codes == MEASURED) & (table.text_lengths == spans.before)] = NO_TEXT
    rows = np.flatnonzero(codes == MEASURED)
    for block in np.split(rows, range(block_rows, len(rows), block_rows)):
        lines = [table[row].labelled[spans.before[row] :] for row in block.tolist()]
        if not lines:
            continue
        answers = torch.from_numpy(np.concatenate(lines))[None]
        counted = spectra.kept(torch.ones_like(answers), answers)[0].numpy()
        starts = np.cumsum([0, *map(len, lines[:-1])])
        codes[block[~np.logical_or.reduceat(counted, starts)]] = NO_TEXT
    return codes


def refuse_several(image_counts: Int[np.ndarray, " rows"], instead: str) -> None:
    """Raise ValueError: rows have several images, of which mode `released` knows one.

    `instead`: the setting to use.
    """
    several = np.flatnonzero(image_counts > 1)
    if len(several):
        raise ValueError(
            f"mode released knows one image a row; {len(several)} of {len(image_counts)} rows have "
            f"several, the first is row {several[0]}; use {instead}, or leave these rows out"
        )
