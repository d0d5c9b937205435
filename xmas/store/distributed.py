"""The ranks of a torchrun job: which one this process is, and how rank 0 leads the others.

torchrun starts the same command on every device; its environment says which rank a process is. Rank
0 sends what all ranks compute together through torchrun's key-value store, not through a process
group: there waiting has no time limit, and ranks may wait hours for a stage of rank 0 alone.
"""

import atexit
import contextlib
import functools
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = timedelta(days=30)  # a rank waits for another; torchrun ends all ranks if one dies


def launched() -> bool:
    """Whether this process is one of several that torchrun has started."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1


class _Work:
    """Whether all ranks compute the same now; otherwise rank 0 computes alone."""

    shared = True


def shared() -> bool:
    """Whether all ranks compute the same now."""
    return _Work.shared


@contextlib.contextmanager
def sharing(shared: bool) -> Iterator[None]:
    """On rank 0: the block is computed by all ranks, or by rank 0 alone while the others wait."""
    before = _Work.shared
    _Work.shared = shared
    try:
        yield
    finally:
        _Work.shared = before


def rank_and_world() -> tuple[int, int]:
    """The rank of this process, and the number of ranks that compute together now."""
    if launched():
        if not shared():
            return 0, 1
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if "torch" not in sys.modules:  # without it there is no group of processes
        return 0, 1
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def leads() -> bool:
    """Whether this is rank 0, which writes files and log lines for all."""
    return not launched() or os.environ["RANK"] == "0"


def local() -> int:
    """The number of this process on its host."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def barrier() -> None:
    """Wait until all ranks that compute together have called this."""
    if launched():
        if shared():
            _channel().barrier()
    elif rank_and_world()[1] > 1:
        from torch import distributed

        distributed.barrier()


@functools.cache
def end_group_at_exit() -> None:
    """End the group of processes, if there is one then, before the interpreter ends.

    Its threads would otherwise outlive the interpreter, and at times abort the process ("terminate
    called without an active exception"): torchrun then reports a job as failed that had succeeded.
    Lightning ends the groups of NCCL only.
    """
    atexit.register(_end_group)


def _end_group() -> None:
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def send(message: Any) -> None:
    """On rank 0: send a message to all other ranks, which get it from `receive`."""
    _channel().send(message)


def receive() -> Any:
    """On other ranks: wait for the next message of rank 0. Raises RuntimeError: it has ended."""
    return _channel().receive()


def from_rank_0(make: Callable[[], T]) -> T:
    """What `make` returns on rank 0, on all ranks that compute together; only rank 0 calls it."""
    if not (launched() and shared()):
        return make()
    if leads():
        value = make()
        send(("value", value))
        return value
    kind, value = receive()
    if kind == "failed":
        raise RuntimeError(f"rank 0 could not continue: {value}")
    return value


class _Channel:
    """Numbered messages of rank 0, and barriers of all ranks, over a key-value store."""

    def __init__(self) -> None:
        from torch import distributed

        torch: Any = distributed  # its stub leaves out what follows
        store, self.rank, self.world = next(iter(torch.rendezvous("env://", timeout=PATIENCE)))
        self.store = torch.PrefixStore("xmas", store)
        self.messages, self.barriers = 0, 0

    def send(self, message: Any) -> None:
        self.store.set(f"message/{self.messages}", pickle.dumps(message))
        self.messages += 1

    def receive(self) -> Any:
        from torch.distributed import DistNetworkError

        name = f"message/{self.messages}"
        self.messages += 1
        try:
            self.store.wait([name], PATIENCE)
            return pickle.loads(self.store.get(name))
        except DistNetworkError as error:  # the process of rank 0 may serve the store
            raise RuntimeError("rank 0 has ended; its own message says why") from error

    def barrier(self) -> None:
        """Rank 0 leaves last: its process may serve the store that the others still read."""
        prefix = f"barrier/{self.barriers}"
        self.barriers += 1
        self.store.set(f"{prefix}/{self.rank}", b"")
        self.store.wait([f"{prefix}/{rank}" for rank in range(self.world)], PATIENCE)
        self.store.set(f"{prefix}/{self.rank}/left", b"")
        if self.rank == 0:
            self.store.wait([f"{prefix}/{rank}/left" for rank in range(self.world)], PATIENCE)


@functools.cache
def _channel() -> _Channel:
    return _Channel()
