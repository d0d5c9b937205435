"""This process among those that were started together, and how rank 0 leads the others.

torchrun starts the same command on every device; its environment says which rank a process is. Work
that ranks do together is told by rank 0 through torchrun's own key-value store, not through a
process group: waiting there has no time limit, so ranks may wait hours for what rank 0 does alone.
"""

import contextlib
import functools
import os
import pickle
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

PATIENCE = timedelta(days=30)  # that a rank waits for another; one that dies ends all (torchrun)


def launched() -> bool:
    """Whether this process is one of several that torchrun has started."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1


class _Work:
    """Whether all ranks do the same now; if not, rank 0 works alone."""

    shared = True


def shared() -> bool:
    return _Work.shared


@contextlib.contextmanager
def sharing(shared: bool) -> Iterator[None]:
    """Rank 0: what follows is done by all, or by it alone while the others wait."""
    before = _Work.shared
    _Work.shared = shared
    try:
        yield
    finally:
        _Work.shared = before


def place() -> tuple[int, int]:
    """The rank of this process, and how many work together now."""
    if launched():
        if not shared():
            return 0, 1
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def leads() -> bool:
    """Whether this is the process that writes and speaks for all."""
    return not launched() or os.environ["RANK"] == "0"


def local() -> int:
    """The number of this process on its host."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def barrier() -> None:
    """Wait until all ranks that work together are here."""
    if launched():
        if shared():
            _channel().meet()
    elif place()[1] > 1:
        from torch import distributed

        distributed.barrier()


def tell(message: Any) -> None:
    """Rank 0: what all others get from their next `hear`."""
    _channel().tell(message)


def hear() -> Any:
    """Other ranks: wait for what rank 0 tells next. Raises RuntimeError: rank 0 has ended."""
    return _channel().hear()


class _Channel:
    """Numbered messages of rank 0, and meetings of all, over a key-value store."""

    def __init__(self) -> None:
        from torch import distributed

        torch: Any = distributed  # its stub leaves out what follows
        held, self.rank, self.world = next(iter(torch.rendezvous("env://", timeout=PATIENCE)))
        self.held = torch.PrefixStore("xmas", held)
        self.told, self.met = 0, 0

    def tell(self, message: Any) -> None:
        self.held.set(f"told/{self.told}", pickle.dumps(message))
        self.told += 1

    def hear(self) -> Any:
        from torch.distributed import DistNetworkError

        name = f"told/{self.told}"
        self.told += 1
        try:
            self.held.wait([name], PATIENCE)
            return pickle.loads(self.held.get(name))
        except DistNetworkError as error:  # rank 0 may hold the store
            raise RuntimeError("rank 0 has ended; its own message says why") from error

    def meet(self) -> None:
        """Rank 0 leaves last: it may hold the store that the others still read."""
        here = f"met/{self.met}"
        self.met += 1
        self.held.set(f"{here}/{self.rank}", b"")
        self.held.wait([f"{here}/{rank}" for rank in range(self.world)], PATIENCE)
        self.held.set(f"{here}/{self.rank}/left", b"")
        if self.rank == 0:
            self.held.wait([f"{here}/{rank}/left" for rank in range(self.world)], PATIENCE)


@functools.cache
def _channel() -> _Channel:
    return _Channel()
