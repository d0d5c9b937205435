"""Packing: the rows of a microbatch as one sequence without padding.

A row sees itself alone: its positions start at zero, attention stays inside it
(`xmas.models.varlen_attention`), and its first token is nobody's prediction. So the loss is that of
the padded batch.
"""

import dataclasses

import torch
from jaxtyping import Int
from torch import Tensor, nn

from xmas.models.chat.batches import Batch
from xmas.models.chat.labels import IGNORED


def pack(batch: Batch, *, multiple: int = 1, pad: int = 0) -> Batch:
    """The same rows as one line of tokens; `lengths` are theirs, in order.

    Args:
        multiple: of tokens; a last row of `pad` fills the line up, which no other row sees.
    """
    lengths = batch.mask.sum(dim=1)
    first = torch.cumsum(lengths, 0) - lengths
    labels = batch.labels[batch.mask]
    labels[first] = IGNORED
    image_start = torch.where(batch.image_start >= 0, batch.image_start + first, -1)
    fill = -int(lengths.sum()) % multiple
    if fill:
        lengths = torch.cat([lengths, lengths.new_tensor([fill])])
    return dataclasses.replace(
        batch,
        ids=nn.functional.pad(batch.ids[batch.mask], (0, fill), value=pad)[None],
        mask=torch.ones(1, int(lengths.sum()), dtype=torch.bool),
        labels=nn.functional.pad(labels, (0, fill), value=IGNORED)[None],
        image_start=image_start,
        lengths=lengths,
    )


def positions(lengths: Int[Tensor, " rows"]) -> Int[Tensor, " total"]:
    """The position of every token within its row."""
    total = int(lengths.sum())
    first = torch.cumsum(lengths, 0) - lengths
    return torch.arange(total, device=lengths.device) - torch.repeat_interleave(
        first, lengths, output_size=total
    )
