"""CUDA graphs of decode steps: the kernels of a step in one launch.

A decode step of a 7B model is some 1,400 kernels, which Python launches more slowly than a GPU runs
them. A graph has fixed shapes and addresses. The usual remedy, one length for all with a mask,
makes attention sum in another order, so that a token may change. Here every length of the KV cache
has its own graph: it is made of the kernels of the eager step, and gives the same bits. Lengths
repeat between the questions of a benchmark, so nearly all steps are replays.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch

DEVICES = ("cuda",)  # types of devices that have graphs


class StepGraphs:
    """Runs a step eagerly the first time, captures it the second, and replays it from then on.

    Args:
        device: of the step's tensors; on one without graphs every step is eager.
        enabled: False: every step is eager.
        most: graphs that are kept, some MB each; the least recently used is dropped.
    """

    def __init__(self, device: torch.device, *, enabled: bool = True, most: int = 1024) -> None:
        self._enabled = enabled and device.type in DEVICES
        self._most = most
        self._graphs: OrderedDict[Hashable, Any] = OrderedDict()  # None: was run once, eagerly
        self._pool: Any = None  # of memory, shared by all graphs: only one of them runs at a time

    def run(self, shape: Hashable, step: Callable[[], None]) -> None:
        """Run `step`, or replay what an earlier step of the same `shape` has launched.

        Args:
            shape: all that decides which kernels run, and over which part of which tensors.
            step: reads and writes tensors that stay where they are, and never waits for the device.

        Raises:
            RuntimeError: the step cannot be captured; says which setting does without.
        """
        if not self._enabled:
            step()
            return
        if shape not in self._graphs:
            step()  # its kernels are loaded and their workspaces allocated before the capture
            self._graphs[shape] = None
        else:
            if self._graphs[shape] is None:
                self._graphs[shape] = self._captured(step)
            self._graphs[shape].replay()
            self._graphs.move_to_end(shape)
        if len(self._graphs) > self._most:
            self._graphs.popitem(last=False)

    def clear(self) -> None:
        """Drop all graphs: tensors that they read or write were replaced."""
        self._graphs.clear()
        self._pool = None

    def _captured(self, step: Callable[[], None]) -> Any:
        try:
            graph = capture(step, self._pool)
        except RuntimeError as error:  # also out of memory
            raise RuntimeError(
                f"a decode step cannot be captured as a CUDA graph: {error}; set "
                "generation.graphs=false, which is slower and gives the same answers"
            ) from error
        self._pool = graph.pool()
        return graph


def capture(step: Callable[[], None], pool: Any) -> Any:
    """A CUDA graph of what `step` launches; nothing is computed yet.

    Args:
        pool: of an earlier graph, whose memory for intermediate tensors it shares; None: its own.
    """
    graph = torch.cuda.CUDAGraph()
    # Other threads decode images meanwhile: what they do on the device is none of the graph's.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        step()
    return graph
