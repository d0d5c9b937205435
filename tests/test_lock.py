"""Locks: one holder at a time, and a dead one's are taken over, whatever host it was on."""

import errno
import fcntl
import multiprocessing
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from xmas.store import lock

FORK = multiprocessing.get_context("fork")


LEASES = (0.2, 2.0, 20.0)  # seconds; the next where a busy machine renewed one too late


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "LEASE", LEASES[0])
    monkeypatch.setattr(lock, "POLL", 0.01)
    lock.has_flock.cache_clear()
    yield
    lock.has_flock.cache_clear()


def hold(path: Path, kind: str, host: str | None, held) -> None:
    if host is not None:
        from filelock import _marker

        _marker.host_name = lambda: host
    with lock.alone(path, kind=kind, waiting=lambda: None):
        held.set()
        time.sleep(600)


def holder(path: Path, kind: str, host: str | None = None):
    held = FORK.Event()
    process = FORK.Process(target=hold, args=(path, kind, host, held), daemon=True)
    process.start()
    while not held.wait(0.1):
        assert process.is_alive()
    return process


@pytest.mark.parametrize(
    ("kind", "host"), [("flock", None), ("lease", None), ("lease", "elsewhere")], ids=str
)
def test_a_killed_holders_lock_is_taken_over(tmp_path, monkeypatch, kind, host):
    for lease in LEASES:
        monkeypatch.setattr(lock, "LEASE", lease)
        path, waited = tmp_path / f"result of {lease}", []
        process = holder(path, kind, host)
        if keeps(path, kind, waited):
            break
        process.kill()
    else:
        pytest.fail("it was taken from a process that was alive")
    assert waited == [1]
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with _at_most(300), lock.alone(path, kind=kind, waiting=lambda: waited.append(2)):
        assert True
    assert waited in ([1], [1, 2])


def keeps(path: Path, kind: str, waited: list[int]) -> bool:
    """Whether another process keeps a lock for longer than a lease."""
    try:
        with (
            _at_most(1.5 * lock.LEASE),
            lock.alone(path, kind=kind, waiting=lambda: waited.append(1)),
        ):
            return False
    except TimeoutError:
        return True


class _at_most:  # noqa: N801
    """Seconds within which a block has to end, or TimeoutError."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __enter__(self) -> None:
        def late(*_):
            raise TimeoutError(f"not within {self.seconds} s")

        self.before = signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *_) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)


def test_where_a_file_system_has_no_flock_there_is_a_lease(tmp_path, monkeypatch):
    def absent(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", absent)
    with lock.alone(tmp_path / "result", waiting=lambda: None):
        assert (tmp_path / "result.lease").exists()
        assert not (tmp_path / "result.lock").exists()


def test_nfs_without_a_lock_daemon_locks_folders_and_no_files(tmp_path, monkeypatch):
    whole = fcntl.flock

    def no_locks(file, operation):
        descriptor = file if isinstance(file, int) else file.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOLCK, "No locks available")
        whole(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with lock.alone(tmp_path / "result", waiting=lambda: None):
        assert [path.name for path in tmp_path.iterdir()] == ["result.lease"]


def test_with_flock_there_is_none(tmp_path):
    with lock.alone(tmp_path / "result", waiting=lambda: None):
        assert [path.name for path in tmp_path.iterdir()] == ["result.lock"]


def test_another_error_of_flock_is_not_taken_for_its_absence(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output"):
        lock.has_flock(str(tmp_path))


def test_another_kind_is_refused(tmp_path):
    with (
        pytest.raises(ValueError, match=r"store\.locks='none': expected auto, flock, lease"),
        lock.alone(tmp_path / "result", kind="none", waiting=lambda: None),
    ):
        pass


@pytest.mark.parametrize("in_background", [False, True])
def test_a_holder_that_could_not_renew_its_lease_is_interrupted(tmp_path, in_background):
    """By SIGTERM where the shell of a job in the background has let SIGINT be ignored."""
    interrupt = signal.SIG_IGN if in_background else signal.default_int_handler
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, interrupt),
        signal.SIGTERM: signal.signal(signal.SIGTERM, _terminated),
    }
    try:
        held = lock.alone(tmp_path / "result", kind="lease", waiting=lambda: None)
        with held, pytest.raises(InterruptedError if in_background else KeyboardInterrupt):
            _lose(tmp_path / "result.lease")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminated(number: int, frame: object) -> None:
    raise InterruptedError(f"signal {number}")


def _lose(lease: Path) -> None:
    lease.unlink()  # as who took it over would
    while True:  # an interrupt is seen between instructions, not within a sleep
        time.sleep(0.02)
