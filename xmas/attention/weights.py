"""Several snapshots of one model's weights, put in place by reference: no copy, one module."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from xmas.models.vlm import unwrap

_FREE = 0.5  # of the free memory may hold weights; the rest is for the pass itself

Read = Callable[[int], Mapping[str, Tensor]]  # the trained weights behind an optimiser step


class Weights:
    """The weights of a model in front of its head, or with its `head`, in a given precision.

    Parameters are pointed at the tensors of a snapshot, and back at their own when it is over. What
    a snapshot does not name is the model's, in that precision.
    """

    def __init__(self, model: nn.Module, precision: torch.dtype, *, head: bool = False) -> None:
        inner = unwrap(model)
        self.precision = precision
        body = {id(one) for one in (inner if head else inner.model).parameters()}
        self._parameters = {name: one for name, one in inner.named_parameters() if id(one) in body}
        self._own = {name: one.data for name, one in self._parameters.items()}

    def bytes(self, trained: Mapping[str, Tensor]) -> int:
        """What a snapshot with these weights takes."""
        held = (one.numel() for name, one in trained.items() if name in self._parameters)
        return sum(held) * self.precision.itemsize

    def groups(self, steps: Sequence[int], read: Read, budget: int | None) -> list[list[int]]:
        """Steps whose weights fit `budget` bytes together, one at least; null: half of what is
        free on the model's device."""
        if len(steps) < 2:
            return [list(steps)] if steps else []
        device = next(iter(self._own.values())).device
        budget = int(free_bytes(device) * _FREE) if budget is None else budget
        size = max(1, budget // max(1, self.bytes(read(steps[0]))))
        return [list(steps[start : start + size]) for start in range(0, len(steps), size)]

    @contextlib.contextmanager
    def resident(
        self, steps: Sequence[int], read: Read | None
    ) -> Iterator[dict[int, dict[str, Tensor]]]:
        """Snapshots of these steps on the model's device; `read` None: the model as it is.

        Raises ValueError: a snapshot lacks a weight that another one has, or has a foreign one.
        """
        own = {name: one.to(self.precision) for name, one in self._own.items()}
        held, first = {}, None
        for step in steps:
            trained = dict(read(step)) if read else {}
            foreign = sorted(set(trained) - set(self._parameters) - self._head(trained))
            first = set(trained) if first is None else first
            if foreign or set(trained) != first:
                odd = foreign or sorted(set(trained) ^ first)
                raise ValueError(f"step {step}: weights {odd} are not those of the other snapshots")
            held[step] = own | {
                name: one.to(own[name].device, self.precision)
                for name, one in trained.items()
                if name in self._parameters
            }
        try:
            yield held
        finally:
            self.use(self._own)

    def use(self, weights: Mapping[str, Tensor]) -> None:
        """Point every parameter at its tensor."""
        for name, parameter in self._parameters.items():
            parameter.data = weights[name]

    @staticmethod
    def _head(trained: Mapping[str, Tensor]) -> set[str]:
        return {name for name in trained if name.startswith("lm_head.")}


def free_bytes(device: torch.device) -> int:
    """Free memory of a GPU, or of the host."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
