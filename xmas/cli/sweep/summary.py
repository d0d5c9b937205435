"""The log lines of a multirun, and its summary."""

import logging
from collections.abc import Iterable

from hydra.errors import CompactHydraException

from xmas.cli.sweep.job import Outcome

log = logging.getLogger("xmas.cli.sweep")


class SweepError(CompactHydraException):
    """Jobs of a multirun failed. Hydra prints the message alone and exits with status 1."""


def follow(outcomes: Iterable[Outcome], count: int) -> list[Outcome]:
    """Log a line for every job when it ends.

    Raises SweepError: when all have ended, some have failed; names each with its error and log.
    """
    ended: list[Outcome] = []
    for outcome in outcomes:
        ended.append(outcome)
        state = "done" if outcome.error is None else f"FAILED: {outcome.error}"
        log.info(
            "job %d of %d %.1f s %s  %s", len(ended), count, outcome.seconds, outcome.job, state
        )
    failed = [outcome for outcome in ended if outcome.error]
    if failed:
        raise SweepError("\n".join(_summary(failed, count)))
    return ended


def _summary(failed: list[Outcome], count: int) -> list[str]:
    lines = [f"xmas: {len(failed)} of {count} jobs failed"]
    for outcome in sorted(failed, key=lambda outcome: outcome.job.number):
        lines += [f"  {outcome.job}", f"    {outcome.error}", f"    log: {outcome.job.log}"]
    return [*lines, "The others are done. The same command resumes the failed ones."]
