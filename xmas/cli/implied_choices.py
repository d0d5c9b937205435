"""Choices that a goal implies where the command makes none."""

from collections.abc import Sequence

from xmas.cli.resolvers import DEMO_POOLS

_SCORED = ("scores", "estimate")  # an estimate is of the scores unless it says something else


def with_implied(arguments: Sequence[str]) -> list[str]:
    """The arguments, with `suite=heldout` for the scores of a pool that has no benchmarks.

    Only then: a subset to train on is chosen from all rows, and nothing has to be hashed for it.
    """
    choices = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    own_pool = choices.get("pool", DEMO_POOLS[0]) not in DEMO_POOLS
    scored = choices.get("goal") in _SCORED and choices.get("estimate.of", "scores") == "scores"
    named = any(choice in choices for choice in ("suite", "experiment"))
    return [*arguments, "suite=heldout"] if own_pool and scored and not named else [*arguments]
