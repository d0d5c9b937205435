"""Why a row of a pool has attention spectra, or none."""

import numpy as np
import torch
from jaxtyping import UInt8

from xmas.attention.metric import Spectra
from xmas.attention.plan import Spans
from xmas.models.chat.tokens import TokenTable

MEASURED, TEXT_ONLY, NO_TEXT = 0, 1, 2
_BLOCK = 4096  # rows whose tokens are looked at together


def reasons(table: TokenTable, spans: Spans, spectra: Spectra) -> UInt8[np.ndarray, " rows"]:
    """Why a row has values (0) or none: 1 without an image, 2 without a text row that counts."""
    found = np.where(table.image_at >= 0, MEASURED, TEXT_ONLY).astype(np.uint8)
    found[(found == MEASURED) & (spans.text == 0)] = NO_TEXT
    rows = np.flatnonzero(found == MEASURED)
    for block in np.split(rows, range(_BLOCK, len(rows), _BLOCK)):
        lines = [table[row].labelled[spans.before[row] :] for row in block.tolist()]
        if not lines:
            continue
        answers = torch.from_numpy(np.concatenate(lines))[None]
        kept = spectra.kept(torch.ones_like(answers), answers)[0].numpy()
        starts = np.cumsum([0, *map(len, lines[:-1])])
        found[block[~np.logical_or.reduceat(kept, starts)]] = NO_TEXT
    return found
