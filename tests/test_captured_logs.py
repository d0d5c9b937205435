"""`captured_logs`: records that do not reach the root are captured as by pytest itself."""

import logging
from collections.abc import Iterator

import captured_logs
import pytest
from _pytest.logging import LogCaptureHandler, catching_logs


@pytest.fixture
def lonely() -> Iterator[logging.Logger]:
    """A logger whose records do not reach the root, made within a test."""
    logger = logging.getLogger("lonely")
    logger.propagate = False
    yield logger
    del logging.root.manager.loggerDict["lonely"]
    captured_logs.not_propagating.cache_clear()


def captured(logger: logging.Logger) -> list[str]:
    with catching_logs(LogCaptureHandler(), level=logging.INFO) as handler:
        logger.warning("of its own")
        logging.getLogger("others").info("of the root")
    assert handler not in (*logger.handlers, *logging.root.handlers)
    return [record.getMessage() for record in handler.records]


@pytest.mark.skipif(not captured_logs.LOOKS, reason="this pytest captures none of them")
def test_a_logger_that_does_not_propagate_is_captured_from_the_next_test_on(lonely):
    assert captured(lonely) == ["of the root"]  # it was made after this test's only look
    captured_logs.not_propagating.cache_clear()  # as conftest.py does before each test
    assert captured(lonely) == ["of its own", "of the root"]
