"""pytest's capture of logs, which looks for loggers of its own once a test instead of six times.

Thousands of loggers are there, 0.1 ms a look. The limit: a logger that stops propagating in a
test or its fixtures is captured from the next test on; pytest would see that of a fixture.
"""

import functools
import logging
from typing import Any

from _pytest.logging import catching_logs


@functools.cache
def not_propagating() -> list[logging.Logger]:
    """The loggers whose records do not reach the root; `cache_clear` has them looked for anew."""
    loggers = logging.getLogger().manager.loggerDict.values()
    return [one for one in loggers if isinstance(one, logging.Logger) and not one.propagate]


def attach(self: Any) -> logging.Handler:
    """Attach the handler of a `catching_logs` to the root and to those."""
    root = logging.getLogger()
    if self.level is not None:
        self.handler.setLevel(self.level)
    for logger in (root, *not_propagating()):
        logger.addHandler(self.handler)
        self.attached_loggers.append(logger)
    if self.level is not None:
        self.orig_level = root.level
        root.setLevel(min(self.orig_level, self.level))
    return self.handler


LOOKS = hasattr(catching_logs, "attached_loggers")  # pytest 8 captures what reaches the root alone


def install() -> None:
    if LOOKS:
        catching_logs.__enter__ = attach
