"""What a multirun says while it runs and at its end."""

import logging
from collections.abc import Iterable

from hydra.errors import CompactHydraException

from xmas.cli.sweep.job import Outcome

log = logging.getLogger("xmas.cli.sweep")


class SweepError(CompactHydraException):
    """Jobs of a multirun failed. Hydra prints the message alone and exits with status 1."""


def follow(outcomes: Iterable[Outcome], count: int) -> list[Outcome]:
    """A line for every job as it ends.

    Raises SweepError when all have ended: some failed; names each with its error and its log.
    """
    ended: list[Outcome] = []
    for one in outcomes:
        ended.append(one)
        said = "done" if one.error is None else f"FAILED: {one.error}"
        log.info("job %d of %d %.1f s %s  %s", len(ended), count, one.seconds, one.job, said)
    if failed := sorted((one for one in ended if one.error), key=lambda one: one.job.number):
        raise SweepError("\n".join(_told(failed, count)))
    return ended


def _told(failed: list[Outcome], count: int) -> list[str]:
    lines = [f"xmas: {len(failed)} of {count} jobs failed"]
    for one in failed:
        lines += [f"  {one.job}", f"    {one.error}", f"    log: {one.job.log}"]
    return [*lines, "The others are done. The same command again goes on where these stopped."]
