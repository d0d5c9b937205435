"""A CUDA graph without CUDA: the operators of a step, recorded and run again on the same memory.

What a graph refuses is refused (a wait for the device, a copy from or to the host), nothing is
computed while it is captured, and a replay sees neither Python nor what the capture has computed:
its own intermediate values are spoilt before. On the emulated GPU it is `torch.cuda.CUDAGraph`.
"""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

WAITS = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "unique")
Call = tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]


def tensors(*values: Any) -> list[Tensor]:
    """Those in what an operator takes or gives: lists, tuples and dictionaries, no other trees."""
    leaves: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            leaves.append(value)
        elif isinstance(value, (list, tuple)):  # as a union it would be made anew at each call
            leaves += tensors(*value)
        elif isinstance(value, dict):
            leaves += tensors(*value.values())
    return leaves


@functools.cache
def written_by(operator: Any) -> list[tuple[int, str]]:
    """Places and names of the arguments that an operator writes to."""
    return [
        (number, argument.name)
        for number, argument in enumerate(operator._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class RecordedGraph(TorchDispatchMode):
    """A `torch.cuda.CUDAGraph`, and the context manager that captures into it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.replays = 0
        self._own: dict[int, Tensor] = {}  # memory of intermediate values, by address
        self._before: dict[int, tuple[Tensor, Tensor]] = {}  # what the step writes to

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        taken = tensors(*args, *kwargs.values())
        places = {tensor.device.type for tensor in taken}
        places |= {torch.device(kwargs["device"]).type} if kwargs.get("device") else set()
        if name in WAITS or (len(places) > 1 and "copy" in name):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        written = written_by(func)
        for number, argument in written:
            for tensor in tensors(args[number] if number < len(args) else kwargs.get(argument)):
                self._save(tensor)
        results = func(*args, **kwargs)
        known = set(map(address, taken))
        made = [(address(one), one) for one in tensors(results)]
        new = [one for place, one in made if place not in known]
        self._own |= {place: one for place, one in made if place not in known}
        if new or written:
            self.calls.append((func, args, kwargs, new))
        return results

    def _save(self, tensor: Tensor) -> None:
        """The whole memory of a tensor that is written to, if it was there before the capture."""
        place = address(tensor)
        if place not in self._own and place not in self._before:
            flat = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
            flat.set_(tensor.untyped_storage())
            self._before[place] = (flat, flat.clone())

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for memory, content in self._before.values():
            memory.copy_(content)

    @_disable_current_modes()
    @torch.no_grad()
    def replay(self) -> None:
        """One launch: what counts the operators of a program sees none of these."""
        self.replays += 1
        for memory in self._own.values():
            if memory.is_floating_point():
                memory.fill_(torch.nan)
        for func, args, kwargs, new in self.calls:
            results = func(*args, **kwargs)
            if new:
                for place, result in zip(new, tensors(results), strict=True):
                    place.copy_(result)

    def pool(self) -> tuple[int, int]:
        return (0, 1)


def captured_on(device: str, monkeypatch: pytest.MonkeyPatch) -> list[RecordedGraph]:
    """Decode steps on this type of device are captured; the list that each graph is added to."""
    from xmas.evaluation.generation import graphs

    captured: list[RecordedGraph] = []

    def capture(step: Callable[[], None], pool: Any) -> RecordedGraph:
        with RecordedGraph() as graph:
            step()
        captured.append(graph)
        return graph

    monkeypatch.setattr(graphs, "DEVICES", (device,))
    monkeypatch.setattr(graphs, "capture", capture)
    return captured
