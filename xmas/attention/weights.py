"""Several snapshots of one model's weights in memory, exchanged by reference in one module."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from xmas.models.vlm import unwrap

_FREE = 0.5  # fraction of the free memory for weights; the rest is for the forward pass

Read = Callable[[int], Mapping[str, Tensor]]  # the trained weights after an optimiser step


class Weights:
    """The weights of a model before its head, or with its `head`, in a given precision.

    Parameters refer to the tensors of a snapshot while it is used, then to their own again.
    Weights that a snapshot does not contain (frozen ones) are the model's, in that precision.
    """

    def __init__(self, model: nn.Module, precision: torch.dtype, *, head: bool = False) -> None:
        inner = unwrap(model)
        self.precision = precision
        body = {id(parameter) for parameter in (inner if head else inner.base_model).parameters()}
        self._parameters = {
            name: parameter for name, parameter in inner.named_parameters() if id(parameter) in body
        }
        self._own = {name: parameter.data for name, parameter in self._parameters.items()}

    def bytes(self, trained: Mapping[str, Tensor]) -> int:
        """Bytes that a snapshot with these trained weights takes."""
        sizes = (tensor.numel() for name, tensor in trained.items() if name in self._parameters)
        return sum(sizes) * self.precision.itemsize

    def frozen_bytes(self, trained: Mapping[str, Tensor]) -> int:
        """Bytes of the frozen weights that all snapshots share; 0 for those not copied."""
        copied = (
            tensor.numel()
            for name, tensor in self._own.items()
            if name not in trained and tensor.dtype != self.precision
        )
        return sum(copied) * self.precision.itemsize

    def groups(self, steps: Sequence[int], read: Read, budget: int | None) -> list[list[int]]:
        """Split steps into groups that fit into `budget` bytes, at least one step each.

        A group takes the weights of its snapshots, and once those that they share.

        Args:
            budget: None: half of the free memory of the model's device.
        """
        if len(steps) < 2:
            return [list(steps)] if steps else []
        device = next(iter(self._own.values())).device
        budget = int(free_bytes(device) * _FREE) if budget is None else budget
        trained = read(steps[0])
        size = max(1, (budget - self.frozen_bytes(trained)) // max(1, self.bytes(trained)))
        return [list(steps[start : start + size]) for start in range(0, len(steps), size)]

    @contextlib.contextmanager
    def resident(
        self, steps: Sequence[int], read: Read | None
    ) -> Iterator[dict[int, dict[str, Tensor]]]:
        """The snapshots of these steps on the model's device, by step and name of the weight.

        `read` None: the weights of the model itself. When the context ends, the model has them
        again. Raises ValueError: a snapshot lacks a weight that another one has, or has a weight
        that the model does not have.
        """
        shared: dict[str, Tensor] = {}  # the frozen weights; what a snapshot has is not copied
        snapshots, first = {}, None
        for step in steps:
            trained = dict(read(step)) if read else {}
            foreign = sorted(set(trained) - set(self._parameters) - self._head(trained))
            if first is None:
                first = set(trained)
                shared = {
                    name: tensor.to(self.precision)
                    for name, tensor in self._own.items()
                    if name not in first
                }
            if foreign or set(trained) != first:
                odd = foreign or sorted(set(trained) ^ first)
                raise ValueError(f"step {step}: weights {odd} are not those of the other snapshots")
            snapshots[step] = shared | {
                name: tensor.to(self._own[name].device, self.precision)
                for name, tensor in trained.items()
                if name in self._parameters
            }
        try:
            yield snapshots
        finally:
            self.use(self._own)

    def use(self, weights: Mapping[str, Tensor]) -> None:
        """Let every parameter refer to the tensor of its name."""
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
