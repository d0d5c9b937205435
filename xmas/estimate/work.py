"""What a stage costs: FLOPs, core seconds, bytes, from its fields and the census of its pool."""

import dataclasses
import functools

from xmas.data.pool import Pool
from xmas.data.rows import PoolError
from xmas.estimate.assumed import Assumed, Census
from xmas.estimate.census import count
from xmas.models.chat.tokens import Tokenised
from xmas.store import Stage, Store
from xmas.training.fit.recipe import Device, Hardware

CORE = 5e10  # FLOP/s of a core on k-means, assumed


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of a stage's work that is bound by one of these."""

    flops: float = 0.0  # on the accelerator
    traffic: float = 0.0  # bytes of weights and caches that are read from its memory
    launching: float = 0.0  # seconds of a core that launches kernels, one after another


@dataclasses.dataclass(frozen=True)
class Work:
    """The cost of one stage; what is 0 is negligible."""

    what: str
    flops: float = 0.0  # on the accelerator
    bits: int = 32  # of its products
    share: str = "forward"  # which share of the peak FLOP/s is reached: of a fit or a forward pass
    traffic: float = 0.0  # bytes of weights and caches that are read from its memory
    launching: float = 0.0  # seconds of a core that launches kernels, one after another
    decoding: Phase = Phase()  # of these three, the part of decode steps, which come last
    core_seconds: float = 0.0  # of the host: at the same time as the accelerator, or instead of it
    readers: int = 1  # cores of a rank that share them
    disk: float = 0.0  # bytes of the result
    scratch: float = 0.0  # bytes of its draft that are removed at the end
    host: float = 0.0  # peak bytes of host memory, without the process itself
    device: float = 0.0  # peak bytes of the accelerator's memory

    def seconds(self, hardware: Hardware) -> float:
        """Wall seconds; host and accelerator work at the same time, on a CPU one after the other.

        Raises:
            ValueError: `hardware.device` is not given.
        """
        device = hardware.device
        if device is None:
            raise ValueError(
                "hardware.device is not given, so hours are unknown; take a hardware= that has "
                "one, or set hardware.device.name, .tflops_16, .tflops_32, .bandwidth and .memory"
            )
        last = self.decoding
        first = Phase(
            self.flops - last.flops, self.traffic - last.traffic, self.launching - last.launching
        )
        busy = self._busy(first, device, hardware) + self._busy(last, device, hardware)
        reading = self.core_seconds / (self.readers * hardware.world)  # each rank reads its share
        return busy + reading if hardware.accelerator == "cpu" else max(busy, reading)

    def _busy(self, phase: Phase, device: Device, hardware: Hardware) -> float:
        """Seconds of a phase: the device computes while the host launches, unless they are one."""
        peak = 1e12 * (device.tflops_32 if self.bits == 32 else device.tflops_16)
        reached = device.fit if self.share == "fit" else device.forward
        computing = max(
            phase.flops / (peak * reached), phase.traffic / (1e9 * device.bandwidth * device.reads)
        )
        if hardware.accelerator == "cpu":
            return (computing + phase.launching) / hardware.world
        return max(computing, phase.launching) / hardware.world


@dataclasses.dataclass(frozen=True)
class Context:
    """What costs depend on besides the stage itself; each pool is counted once."""

    store: Store
    hardware: Hardware
    assumed: Assumed
    tokens: tuple[Tokenised, ...]  # of the planned stages: how a pool's text becomes tokens
    counted: dict[str, Census] = dataclasses.field(default_factory=dict)

    def made(self, stage: Stage) -> bool:
        """Whether the store has the result."""
        try:
            return self.store.path(stage).exists()
        except (OSError, PoolError):  # its identity is the content of files that are not there
            return False

    def census(self, of: Pool | Tokenised) -> Census:
        """The census of a pool, or of the pool of these tokens with their lengths."""
        pool = of.pool if isinstance(of, Tokenised) else of
        of_pool = (stage for stage in self.tokens if stage.pool == of)
        tokens = of if isinstance(of, Tokenised) else next(of_pool, None)
        name = repr((pool, tokens))
        if name not in self.counted:
            self.counted[name] = count(pool, tokens, self.store, self.assumed)
        return self.counted[name]


@functools.singledispatch
def work(stage: Stage, context: Context) -> Work | None:
    """What a stage costs; None if no function is registered for its type."""
    return None
