"""Choices that a goal implies where the command makes none."""

from collections.abc import Mapping, Sequence

from xmas.cli.resolvers import DEMO_POOLS

_SCORED = ("scores", "estimate")  # an estimate is of the scores unless it says something else
_SWEPT = ("-m", "--multirun")


def with_implied(arguments: Sequence[str]) -> list[str]:
    """The arguments, with `suite=heldout` for the scores of a pool that has no benchmarks, and with
    the selectors of an exam.

    A suite for scores only: a subset to train on is chosen from all rows, and nothing has to be
    hashed for it.
    """
    choices = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    own_pool = choices.get("pool", DEMO_POOLS[0]) not in DEMO_POOLS
    scored = choices.get("goal") in _SCORED and choices.get("estimate.of", "scores") == "scores"
    named = any(choice in choices for choice in ("suite", "experiment"))
    implied = ["suite=heldout"] if own_pool and scored and not named else []
    return [*_examined(arguments, choices), *implied]


def _examined(arguments: Sequence[str], choices: Mapping[str, str]) -> list[str]:
    """The arguments, with `goal=exam selector=a,b` for one exam of both: a sweep would be two."""
    goal = choices.get("estimate.of") if choices.get("goal") == "estimate" else choices.get("goal")
    selector = choices.get("selector", "")
    if goal != "exam" or "," not in selector or any(flag in arguments for flag in _SWEPT):
        return [*arguments]
    names = dict.fromkeys(name for name in selector.split(",") if name)
    examined = [f"+selector@exam.selectors.{name}={name}" for name in names]
    return [word for word in arguments if not word.startswith("selector=")] + examined
