"""What a stage costs: FLOPs, core seconds, bytes. Each is computed from its fields and a census."""

import dataclasses
import functools

from xmas.data.pool import Pool
from xmas.data.rows import PoolError
from xmas.estimate.assumed import Assumed, Census
from xmas.estimate.census import count
from xmas.models.chat.tokens import Tokenised
from xmas.store import Stage, Store
from xmas.training.fit.recipe import Hardware

CORE = 5e10  # FLOP/s of a core on k-means, assumed


@dataclasses.dataclass(frozen=True)
class Work:
    """The cost of one stage. What is 0 is not worth telling."""

    what: str
    flops: float = 0.0  # on the accelerator
    bits: int = 32  # of its products
    share: str = "forward"  # which share of the peak is reached: fit, forward
    traffic: float = 0.0  # bytes of weights and caches that are read from its memory
    core_seconds: float = 0.0  # of the host, beside or instead of the accelerator
    readers: int = 1  # cores that share them
    disk: float = 0.0  # bytes of the result
    scratch: float = 0.0  # more of them until it is done
    host: float = 0.0  # peak bytes of host memory, those of the process itself left out
    device: float = 0.0  # peak bytes of the accelerator's memory

    def seconds(self, hardware: Hardware) -> float:
        """Wall seconds. The host works beside an accelerator, and instead of it on a CPU.

        Raises ValueError: the hardware does not say what its devices are.
        """
        device = hardware.device
        if device is None:
            raise ValueError(
                "hardware.device is not given, so hours are unknown; take a hardware= that has "
                "one, or set hardware.device.name, .tflops_16, .tflops_32, .bandwidth and .memory"
            )
        peak = 1e12 * (device.tflops_32 if self.bits == 32 else device.tflops_16)
        reached = device.fit if self.share == "fit" else device.forward
        busy = max(self.flops / (peak * reached), self.traffic / (1e9 * device.bandwidth))
        busy /= hardware.devices
        fed = self.core_seconds / self.readers
        return busy + fed if hardware.accelerator == "cpu" else max(busy, fed)


@dataclasses.dataclass(frozen=True)
class Context:
    """What costs depend on beside the stage itself; pools are counted once each."""

    store: Store
    hardware: Hardware
    assumed: Assumed
    tokens: tuple[Tokenised, ...]  # of the plan; they say how a pool's text becomes tokens
    counted: dict[str, Census] = dataclasses.field(default_factory=dict)

    def made(self, stage: Stage) -> bool:
        """The store has it already."""
        try:
            return self.store.path(stage).exists()
        except (OSError, PoolError):  # its identity is the content of files that are not there
            return False

    def census(self, of: Pool | Tokenised) -> Census:
        """Of a pool, or of the pool behind its tokens and in their lengths."""
        pool = of.pool if isinstance(of, Tokenised) else of
        known = (
            [of] if isinstance(of, Tokenised) else [each for each in self.tokens if each.pool == of]
        )
        tokens = known[0] if known else None
        name = repr((pool, tokens))
        if name not in self.counted:
            self.counted[name] = count(pool, tokens, self.store, self.assumed)
        return self.counted[name]


@functools.singledispatch
def work(stage: Stage, context: Context) -> Work | None:
    """What a stage costs; None where nobody has said."""
    return None
