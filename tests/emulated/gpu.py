"""The emulated CUDA device, installed into this process before it imports torch.

>>> from emulated.gpu import install
>>> gpu = install()
>>> with gpu.counting() as counted:
...     torch.ones(3, device="cuda").sum().item()
>>> counted.waits
{'aten::_local_scalar_dense': 1}
"""

import contextlib
import ctypes
import dataclasses
import functools
import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emulated.build import library, torch_folder

CAPACITY = 80 * 10**9  # bytes of an H100
LISTENER = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
PACKAGE = f"{importlib.util.find_spec('xmas').submodule_search_locations[0]}/"  # not imported yet


@dataclasses.dataclass
class Counted:
    """What the device did within a `with` block."""

    waits: Counter[str] = dataclasses.field(default_factory=Counter)  # of the host, by operator
    places: Counter[str] = dataclasses.field(default_factory=Counter)  # waits by line of xmas
    operators: Counter[str] = dataclasses.field(default_factory=Counter)
    copied: Counter[str] = dataclasses.field(
        default_factory=Counter
    )  # bytes "to host", "to device"
    peak: int = 0  # bytes above those held at the start


class Gpu:
    """The device's counters, and how many devices it appears as."""

    def __init__(self, compiled: ctypes.CDLL) -> None:
        self._compiled = compiled
        compiled.held.restype = compiled.peak.restype = ctypes.c_int64
        compiled.counters.restype = ctypes.c_char_p

    @property
    def held(self) -> int:
        """Bytes of all tensors on all devices."""
        return self._compiled.held()

    @property
    def peak(self) -> int:
        """The most bytes at once since `reset_peak`."""
        return self._compiled.peak()

    def reset_peak(self) -> None:
        self._compiled.reset_peak()

    @property
    def devices(self) -> int:
        return self._devices

    @devices.setter
    def devices(self, count: int) -> None:
        self._devices = count
        self._compiled.set_devices(count)

    @property
    def current(self) -> int:
        return self._compiled.get_current()

    @current.setter
    def current(self, device: int) -> None:
        self._compiled.set_current(device)

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counted]:
        """Count what happens in a `with` block; blocks are not nested."""
        counted = Counted()

        @LISTENER
        def listen(reason: bytes) -> None:
            counted.places[f"{_line()} {reason.decode()}"] += 1

        self._compiled.reset_counters()
        self.reset_peak()
        held = self.held
        self._compiled.listen(listen)
        try:
            yield counted
        finally:
            self._compiled.listen(LISTENER())
            counted.peak = self.peak - held
            counters = {
                "wait": counted.waits,
                "operator": counted.operators,
                "copied": counted.copied,
            }
            for line in self._compiled.counters().decode().splitlines():
                kind, name, count = line.split("\t")
                counters[kind][name] += int(count)


def _line() -> str:
    """The innermost line of xmas that is running; of the backward pass there is none."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside xmas"


@functools.cache
def install(devices: int = 1) -> Gpu:
    """Register the device as `cuda`; it stays until the process ends.

    Raises:
        RuntimeError: torch was imported before, or the device could not be compiled.
    """
    if "torch" in sys.modules:
        raise RuntimeError("torch has asked whether there is CUDA: install() has to run before")
    built, folder = library(), torch_folder() / "lib"
    for name in ("libtorch_global_deps.so", "libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
    gpu = Gpu(ctypes.CDLL(str(built), mode=ctypes.RTLD_GLOBAL))
    gpu.devices = devices
    _patch(gpu)
    sys.path.append(str(Path(__file__).parent / "flash"))  # as if flash-attn were installed
    return gpu


def _patch(gpu: Gpu) -> None:
    """Answers of `torch.cuda`, which asks the driver."""
    import torch
    import torch._dynamo  # looks for devices at its import: before there seems to be one

    from emulated.recorded_graph import RecordedGraph

    def index(device: Any) -> int:
        return device if isinstance(device, int) else torch.device(device).index or 0

    @contextlib.contextmanager
    def device_context(device: Any) -> Iterator[None]:
        before, gpu.current = gpu.current, index(device)
        try:
            yield
        finally:
            gpu.current = before

    class Stream:
        """Does nothing: every operator has ended when its call returns."""

        cuda_stream = 0

        def __init__(self, *args: Any, **options: Any) -> None:
            self.device = torch.device("cuda", gpu.current)

        def __enter__(self) -> "Stream":
            return self

        def __exit__(self, *error: Any) -> None: ...

        def wait_stream(self, other: Any) -> None: ...

        def synchronize(self) -> None: ...

        def record_event(self, event: Any = None) -> Any:
            return event

    class Properties:
        name, major, minor = "NVIDIA H100 80GB HBM3 (emulated)", 9, 0
        total_memory, multi_processor_count, gcnArchName = CAPACITY, 132, ""  # noqa: N815

    no_state = torch.zeros(16, dtype=torch.uint8)  # random numbers are the CPU's
    answers: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: gpu.devices,
        "_device_count_nvml": lambda: gpu.devices,
        "current_device": lambda: gpu.current,
        "set_device": lambda device: setattr(gpu, "current", index(device)),
        "device": device_context,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "mem_get_info": lambda device=None: (CAPACITY - gpu.held, CAPACITY),
        "get_device_name": lambda device=None: Properties.name,
        "get_device_capability": lambda device=None: (Properties.major, Properties.minor),
        "get_device_properties": lambda device=None: Properties(),
        "is_bf16_supported": lambda including_emulation=True: True,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda device="cuda": no_state,
        "set_rng_state": lambda state, device="cuda": None,
        "get_rng_state_all": lambda: [no_state] * gpu.devices,
        "set_rng_state_all": lambda states: None,
        "memory_allocated": lambda device=None: gpu.held,
        "max_memory_allocated": lambda device=None: gpu.peak,
        "reset_peak_memory_stats": lambda device=None: gpu.reset_peak(),
        "memory_stats": lambda device=None: {},
        "current_stream": lambda device=None: Stream(),
        "Stream": Stream,
        "CUDAGraph": RecordedGraph,
        "graph": lambda graph, pool=None, capture_error_mode="global": graph,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    torch._C._cuda_getDeviceCount = lambda: gpu.devices
    torch._C._cuda_getCurrentRawStream = lambda device: 0
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
