"""The loss of every turn of a row: weighted means over the labelled tokens of each."""

import numpy as np
from jaxtyping import Float, Int

from xmas.models.chat.labels import Tokens


def predicted(tokens: Tokens) -> Int[np.ndarray, " labelled"]:
    """Positions in the text of the labelled tokens that a loss counts: all but a row's first."""
    positions = np.flatnonzero(tokens.labelled)
    return positions[1:] if tokens.image_at != 0 and positions[:1].tolist() == [0] else positions


def turn_numbers(tokens: Tokens) -> Int[np.ndarray, " labelled"]:
    """The turn, from 0, of every labelled token that a loss counts: turns are runs of labels."""
    begins = tokens.labelled & ~np.concatenate([[False], tokens.labelled[:-1]])
    return np.cumsum(begins)[predicted(tokens)] - 1


def turn_losses(
    losses: Float[np.ndarray, " labelled"],
    numbers: Int[np.ndarray, " labelled"],
    weights: Float[np.ndarray, " labelled"] | None = None,
) -> Float[np.ndarray, " turns"]:
    """The weighted mean loss of every turn, up to the last that has a token; NaN for one without.

    Args:
        losses: of tokens, in nats.
        numbers: the turn of each token.
        weights: of each token, above 0; None: all one.
    """
    weights = np.ones(len(losses)) if weights is None else weights
    totals = np.bincount(numbers, weights=weights)
    sums = np.bincount(numbers, weights=weights * losses)
    return np.divide(sums, totals, out=np.full(len(totals), np.nan), where=totals > 0)


def mean_ratio(
    without: Float[np.ndarray, " turns"], with_more: Float[np.ndarray, " turns_"]
) -> float:
    """The mean over turns of exp(loss without - loss with more context); NaN without a turn.

    A turn that only one of both has, where the other is cut, is left out.
    """
    count = min(len(without), len(with_more))
    ratios = np.exp(without[:count] - with_more[:count])
    ratios = ratios[~np.isnan(ratios)]
    return float(ratios.mean()) if len(ratios) else np.nan
