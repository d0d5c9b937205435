"""Fixtures of the tests that need the emulated device; see README.md."""

from pathlib import Path

import pytest

from emulated.gpu import Gpu, install

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    registered = install.cache_info().currsize > 0
    other_process = pytest.mark.skip(reason="in a process of its own: pytest -m emulated")
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.emulated)
            if not registered:
                item.add_marker(other_process)


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    """The device of this process, registered when the session started."""
    return install()
