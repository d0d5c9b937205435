"""Which worker of pytest-xdist runs what."""

import pytest
from conftest import pytest_xdist_make_scheduler


def test_a_file_is_one_worker_s_and_all_that_ask_for_the_server_are_one_s(
    pytestconfig, monkeypatch
):
    pytest.importorskip("xdist")
    monkeypatch.setattr(pytestconfig.option, "tx", ["2*popen"])
    scheduling = pytest_xdist_make_scheduler(pytestconfig, None)
    names = ("ranks", "resume", "arp", "clocks")
    tests = [f"tests/test_{name}.py::test_{number}" for name in names for number in (1, 2)]
    assert [scheduling._split_scope(test) for test in tests] == [
        *["server"] * 4,
        *["tests/test_arp.py"] * 2,
        *["tests/test_clocks.py"] * 2,
    ]
