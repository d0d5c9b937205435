"""The microbatches of a fit: rows, order, weights of their losses, and the ranks' shares.

The order follows from rows, recipe and seed alone. Ranks take microbatches in turn, so that an
optimiser step has the same ones on any number of devices.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int

from xmas.models.chat.alike_order import alike_order
from xmas.models.chat.batches import micro_batches, modality_length_order
from xmas.models.chat.tokens import TokenTable
from xmas.training.fit.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """Microbatches and the weights of their losses.

    Trainer and ranks divide the sum of a step's losses by the microbatches of a whole step, also in
    a last step that has fewer.
    """

    batches: list[Int[np.ndarray, " _"]]
    weights: list[float]

    def share(self, rank: int, world: int) -> "BatchPlan":
        """The microbatches of a rank: equally many each, filled up with some of weight zero."""
        filler_count = -len(self.batches) % world
        batches = self.batches + self.batches[-1:] * filler_count
        weights = self.weights + [0.0] * filler_count
        return BatchPlan(batches[rank::world], weights[rank::world])


def plan_batches(
    table: TokenTable,
    rows: Int[np.ndarray, " rows"],
    recipe: Recipe,
    seed: int,
    *,
    tower: bool = True,
) -> BatchPlan:
    """All microbatches of a fit on `rows` of a pool, epoch after epoch.

    One without an answer has weight zero.

    Args:
        tower: whether the vision tower runs in a step.

    Raises ValueError: `rows` is empty.
    """
    if not len(rows):
        raise ValueError("there is no row to train on: the subset or the pool is empty")
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(recipe.epochs):
        order = training_order(
            table.lengths[rows],
            table.image_lengths[rows],
            table.image_at[rows] >= 0,
            recipe,
            tower=tower,
            rng=rng,
        )
        batches += micro_batches(rows[order], recipe.micro_batch)
    if recipe.token_mean == "micro_batch":
        return BatchPlan(batches, [float(answered(table, batch)) for batch in batches])
    answers = np.array([sum(table.answers(int(row)) for row in batch) for batch in batches])
    steps = range(0, len(batches), recipe.accumulated)
    totals = [answers[start : start + recipe.accumulated].sum() for start in steps]
    totals = np.repeat(np.maximum(totals, 1), recipe.accumulated)[: len(answers)]
    return BatchPlan(batches, (answers * recipe.accumulated / totals).tolist())


def training_order(
    lengths: Int[np.ndarray, " rows"],
    image_lengths: Int[np.ndarray, " rows"],
    has_image: Bool[np.ndarray, " rows"],
    recipe: Recipe,
    *,
    tower: bool,
    rng: np.random.Generator,
) -> Int[np.ndarray, " rows"]:
    """Positions 0..rows-1 in the order of an epoch, by what `recipe.grouping` says.

    Args:
        lengths: tokens of the rows, images counted.
        image_lengths: tokens of their images alone.
        tower: whether the vision tower runs in a step.
    """
    micro, world = recipe.micro_batch, recipe.accumulated
    if recipe.grouping == "alike":
        return alike_order(
            lengths, image_lengths, has_image, micro=micro, world=world, tower=tower, rng=rng
        )
    return modality_length_order(lengths, has_image, micro=micro, world=world, rng=rng)


def answered(table: TokenTable, batch: Int[np.ndarray, " _"]) -> bool:
    """Whether a microbatch has a token that a loss counts."""
    return any(table.answers(int(row)) for row in batch)


def microbatches_per_rank(recipe: Recipe, world: int) -> int:
    """Gradient accumulation: microbatches of an optimiser step on each device.

    Raises ValueError: the global batch is not divisible so; says what would be.
    """
    if recipe.accumulated % world:
        raise ValueError(
            f"a batch of {recipe.batch} is {recipe.accumulated} microbatches of "
            f"{recipe.micro_batch}, which {world} devices cannot share evenly; set "
            f"recipe.micro_batch to a divisor of {recipe.batch / world:g}, or devices to a divisor "
            f"of {recipe.accumulated}"
        )
    return recipe.accumulated // world
