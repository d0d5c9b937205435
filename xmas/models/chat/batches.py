"""Rows to batches: padding, pictures, and the order in which a fit sees them.

The order is LLaVA's `group_by_modality_length`: a microbatch has rows with images or text-only
rows, of similar length. It follows from a seed alone, so an interrupted fit resumes mid-epoch by
skipping what it has consumed.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from xmas.models.chat.labels import IGNORED, Tokens
from xmas.models.chat.tokens import TokenTable


@dataclasses.dataclass  # not frozen: Lightning replaces what is in a batch, in true 16 bits
class Places:
    """Where the answers and the image tokens of a batch are, counted through all lines.

    Found before the batch moves to a device, which the host would wait for.
    """

    answers: Int[Tensor, " answers"]  # tokens whose next token has a label
    images: Int[Tensor, " features"]

    @classmethod
    def of(
        cls,
        ids: Int[Tensor, "lines length"],
        labels: Int[Tensor, "lines length"],
        image_token: int,
    ) -> "Places":
        lines, columns = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
        images = (ids == image_token).flatten().nonzero()[:, 0]
        return cls(lines * labels.shape[1] + columns, images)


@dataclasses.dataclass
class Batch:
    """Right-padded rows, a line each, or packed ones in one line. `pictures` are all images of the
    rows, row after row. `lengths` stay on the host.
    """

    rows: Int[np.ndarray, " rows"]
    ids: Int[Tensor, "lines length"]
    mask: Bool[Tensor, "lines length"]
    labels: Int[Tensor, "lines length"]
    image_start: Int[Tensor, " rows"]  # of the first image, -1 without one
    image_length: Int[Tensor, " rows"]  # up to the end of the last image, 0 without one
    pictures: dict[str, Tensor]  # "features" from the cache, or "pixels"; {} without images
    weight: float = 1.0  # of its loss among the microbatches of an optimiser step
    lengths: Int[Tensor, " packed"] | None = None  # of rows packed in one line, and its fill
    places: Places | None = None  # where a loader has found them

    def to(self, device: torch.device) -> "Batch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory; called by torch's loader."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Apply `change` to every tensor but the lengths."""

        def changed(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: changed(entry) for name, entry in value.items()}
            if isinstance(value, Places):
                return Places(**changed(vars(value)))
            return change(value) if isinstance(value, Tensor) else value

        return Batch(**changed(vars(self)) | {"lengths": self.lengths})


def collate(
    rows: Sequence[int],
    tokens: Sequence[Tokens],
    *,
    image_token: int,
    pad: int,
    pictures: Callable[[list[int]], dict[str, Tensor]],
) -> Batch:
    """Pad conversations at their ends to a batch, the images' tokens put in."""
    count, width = len(rows), max(len(row) for row in tokens)
    ids = np.full((count, width), pad, dtype=np.int64)
    labels = np.full((count, width), IGNORED, dtype=np.int64)
    mask = np.zeros((count, width), dtype=bool)
    starts = np.empty(count, dtype=np.int64)
    for line, row_tokens in enumerate(tokens):
        line_ids = row_tokens.whole(image_token)
        span = slice(len(line_ids))
        ids[line, span], mask[line, span] = line_ids, True
        labels[line, span] = row_tokens.whole_labels()
        starts[line] = row_tokens.image_at
    pairs = zip(rows, tokens, strict=True)
    with_image = [row for row, row_tokens in pairs if row_tokens.image_at >= 0]
    return Batch(
        rows=np.asarray(rows),
        ids=torch.from_numpy(ids),
        mask=torch.from_numpy(mask),
        labels=torch.from_numpy(labels),
        image_start=torch.from_numpy(starts),
        image_length=torch.tensor([row_tokens.images_span for row_tokens in tokens]),
        pictures=pictures(with_image) if with_image else {},
    )


@dataclasses.dataclass
class Loader:
    """Resumable loader over a fixed list of batches; restarts after the last consumed batch.

    `consumed` is set by the training loop, never by the iterator, since prefetching runs ahead.
    """

    table: TokenTable
    batches: list[Int[np.ndarray, " _"]]  # of any sizes
    image_token: int
    pad: int
    pictures: Callable[[list[int]], dict[str, Tensor]]
    workers: int = 0
    prefetch: int = 2  # batches that each worker is ahead
    weights: Sequence[float] | None = None  # of the batches' losses; null: all one
    change: Callable[[Batch], Batch] | None = None  # applied to every batch, in the worker
    world: int = 1  # ranks, each with a loader of its batches
    pinned: bool = False  # into page-locked memory: copies to a GPU go on while it computes
    consumed: int = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        todo = range(self.consumed, len(self.batches))
        loader = torch.utils.data.DataLoader(
            todo,  # type: ignore[arg-type]  # a range is a map-style dataset
            batch_size=None,
            collate_fn=self._batch,  # pyright: ignore[reportArgumentType]  # gets one item of `todo`
            num_workers=self.workers,
            prefetch_factor=self.prefetch if self.workers else None,
            pin_memory=self.pinned,
            generator=torch.Generator(),  # or the global generator would move
        )
        yield from loader

    def _batch(self, number: int) -> Batch:
        rows = [int(row) for row in self.batches[number]]
        batch = collate(
            rows,
            [self.table[row] for row in rows],
            image_token=self.image_token,
            pad=self.pad,
            pictures=self.pictures,
        )
        if self.weights is not None:
            batch.weight = self.weights[number]
        batch = batch if self.change is None else self.change(batch)
        batch.places = Places.of(batch.ids, batch.labels, self.image_token)
        return batch

    def state_dict(self) -> dict[str, int]:
        return {"consumed": self.consumed * self.world}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume, also with another number of ranks; all have consumed equally many batches."""
        self.consumed = state["consumed"] // self.world


def modality_length_order(
    lengths: Int[np.ndarray, " rows"],
    has_image: Bool[np.ndarray, " rows"],
    *,
    micro: int,
    world: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, " rows"]:
    """Positions 0..rows-1 in LLaVA's training order.

    A mega-batch holds `micro * world` positions (`world`: devices times accumulation). Each kind is
    shuffled, cut into mega-batches, sorted by length inside one and dealt to `world` chunks of
    equal size so that their sums of lengths are close. All mega-batches but the last of each kind
    are shuffled together; the two last ones form one mixed mega-batch at the end.

    Source: LLaVA `llava/train/llava_trainer.py`, get_modality_length_grouped_indices.
    """
    mega = micro * world
    kinds = [np.flatnonzero(has_image), np.flatnonzero(~has_image)]
    mega_batches = []
    for kind in (kind for kind in kinds if len(kind)):
        kind_order = kind[rng.permutation(len(kind))]
        cut = [kind_order[start : start + mega] for start in range(0, len(kind_order), mega)]
        mega_batches.append([_deal(part, lengths, world) for part in cut])
    if len(mega_batches) == 1:
        return np.concatenate(mega_batches[0])  # shuffled as it is; the short mega-batch stays last
    full = [part for parts in mega_batches for part in parts[:-1]]
    order = [full[position] for position in rng.permutation(len(full))]
    last_rows = np.sort(np.concatenate([parts[-1] for parts in mega_batches]))
    return np.concatenate([*order, last_rows])


def _deal(
    part: Int[np.ndarray, " part"], lengths: Int[np.ndarray, " rows"], world: int
) -> Int[np.ndarray, " part"]:
    """A mega-batch sorted by length, longest first, dealt to the chunk with the smallest sum."""
    by_length = part[np.argsort(-lengths[part], kind="stable")]
    if len(by_length) % world:
        return np.concatenate([by_length[start::world] for start in range(world)])
    size = len(by_length) // world
    chunks: list[list[int]] = [[] for _ in range(world)]
    sums = np.zeros(world)
    for position in by_length:
        chunk = int(np.argmin(sums))
        chunks[chunk].append(int(position))
        sums[chunk] = np.inf if len(chunks[chunk]) == size else sums[chunk] + lengths[position]
    return np.concatenate([np.array(chunk, dtype=part.dtype) for chunk in chunks])


def micro_batches(order: Int[np.ndarray, " rows"], micro: int) -> list[Int[np.ndarray, " _"]]:
    """Consecutive microbatches of an order; the last may be smaller."""
    return [order[start : start + micro] for start in range(0, len(order), micro)]
