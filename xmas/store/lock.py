"""Locks between processes of one host or several, which the death of a holder releases.

The kernel's lock (flock) is released when its holder dies, and NFS 4 does the same between hosts.
Where a file system has no flock, a lease is used: its holder renews it, and any process on any host
may take over a lease that was not renewed for `LEASE` seconds.
"""

import _thread
import contextlib
import errno
import fcntl
import functools
import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from xmas.store.writable import is_writable

log = logging.getLogger(__name__)

LEASE = 120.0  # seconds without renewal after which a holder counts as dead
POLL = 0.2  # seconds between attempts to get a lock that another process has
KINDS = ("auto", "flock", "lease")
_ABSENT = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}  # the last: NFS without a lock daemon


@contextlib.contextmanager
def alone(path: Path, *, kind: str = "auto", waiting: Callable[[], object]) -> Iterator[None]:
    """Hold the lock of `path` in a with block; wait while another process has it.

    Args:
        path: of the file or folder; the lock is a file next to it.
        kind: "flock", "lease", or "auto": flock where the file system has it. A file system whose
            flock is local to each host (Lustre mounted with localflock) cannot be told apart: it
            needs "lease". A holder that could not renew its lease, because its host slept, is
            interrupted.
        waiting: called once if another process holds the lock.

    Raises:
        ValueError: `kind` is none of these.
    """
    lock = _lock_of(path, kind)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire(poll_interval=POLL)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def alone_if_free(path: Path, *, kind: str = "auto") -> Iterator[bool]:
    """Hold the lock of `path` without waiting; whether it was free. Raises as `alone` does."""
    lock = _lock_of(path, kind)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_held(path: Path, *, kind: str = "auto") -> bool:
    """Whether another process holds the lock of `path`. Raises as `alone` does."""
    lock_file = Path(_lock_of(path, kind).lock_file)
    if not lock_file.exists():
        return False
    if not os.access(lock_file, os.W_OK):
        return _is_held_elsewhere(lock_file)
    with alone_if_free(path, kind=kind) as free:
        return not free


def _is_held_elsewhere(lock_file: Path) -> bool:
    """`is_held` for a lock file that this process may only read: it is not taken to find out."""
    if lock_file.suffix == ".lease":
        return abs(time.time() - lock_file.stat().st_mtime) < LEASE
    descriptor = os.open(lock_file, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock_of(path: Path, kind: str) -> BaseFileLock:
    if kind not in KINDS:
        raise ValueError(f"store.locks={kind!r}: expected {', '.join(KINDS)}")
    native = kind == "flock" or (kind == "auto" and has_flock(str(path.parent)))
    return FileLock(path.with_name(f"{path.name}.lock")) if native else _lease(path)


@functools.cache
def has_flock(folder: str) -> bool:
    """Whether the file system of `folder` knows flock.

    A file without a name is locked: NFS locks folders on this host alone, with any server.
    Where none can be made, no lock will be taken either, and the folder is asked.
    """
    path = Path(folder)
    with tempfile.TemporaryFile(dir=folder) if is_writable(path) else _opened(path) as probe:
        try:
            fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            return False
        return True


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lease(path: Path) -> BaseFileLock:
    from filelock import SoftFileLease  # not in the versions that GPU hosts may have

    def lost(why: object) -> None:
        log.error("%s: another process has taken over: %s", path, why)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a script's job in the background
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            _thread.interrupt_main()

    return SoftFileLease(
        path.with_name(f"{path.name}.lease"), lease_duration=LEASE, on_compromise=lost
    )
