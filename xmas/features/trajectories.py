"""Trajectories: the attention spectrum of every row at the snapshots of a proxy's fit."""

import csv
import dataclasses
import json
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from xmas.attention.engine import Running, Scan
from xmas.attention.feed import Material
from xmas.attention.metric import Spectra
from xmas.attention.reasons import MEASURED, NO_TEXT, refuse_several
from xmas.attention.shards import Shards
from xmas.attention.statistics import flat, statistics
from xmas.models.device import device_for
from xmas.models.precision import cast_parameters
from xmas.models.vision_cache import pictures_of
from xmas.models.vlm import all_but_weights, load
from xmas.store import Stage, Store, distributed, write_atomically
from xmas.training.probe import AttentionProbe, logged
from xmas.training.proxy import Proxy


@dataclasses.dataclass(frozen=True)
class Trajectories(Stage):
    """`values.npy` (rows, steps, k) float32, NaN on rows without a value; `steps.npy` (steps,).

    `reasons.npy` (rows,) uint8 says why: 0 the row has values, 1 it is text-only, 2 no text row of
    the chosen kind follows its image (an empty answer under `rows=answer_only`).
    `statistics.json` and `statistics.csv`: quantiles of the singular values at every step, and the
    share of their variance that text length alone explains. `scan_seconds.json`: what each
    step took, part of this stage's seconds also where a fit called the scan.

    If the proxy has yet to be fitted, steps are measured during the fit; otherwise from its saved
    weights, so that `k` and `layers` can change without training again. An interrupted attempt
    resumes after its last finished shard.

    Source: XMAS (arXiv 2510.01454); mode `model` where the release multiplies unrotated
    projections with the heads joined, without a causal mask, and counts pads as text.
    """

    kind: ClassVar[str] = "trajectories"
    of_images: ClassVar[bool] = True  # rows without one have no value
    version: ClassVar[int] = 3  # statistics; tower features in 16 bits
    together: ClassVar[bool] = True

    proxy: Proxy
    spectra: Spectra = dataclasses.field(default_factory=Spectra)
    running: Running = dataclasses.field(default_factory=Running)

    @property
    def weights(self) -> str:
        """The precision of the scan: that of `running`, or else of the fit."""
        return self.running.weights or self.proxy.feature_precision

    def inputs(self) -> list[Stage]:
        return [self.proxy, *self.proxy.inputs()]

    def check(self, store: Store) -> None:
        """Raises ValueError: rows of the pool have several images, which mode `released` does not
        know.
        """
        if self.spectra.unmasked and self.proxy.pool.at_hand(store):
            counts = self.proxy.pool.open(store).shown.counts
            refuse_several(counts, "features.trajectories.spectra.mode=model")

    def compute(self, store: Store, out: Path) -> None:
        """Raises FloatingPointError: the attention of a row is not finite; names row and layer."""
        measuring = Measuring(self, store, out)
        probe = AttentionProbe(measuring.steps, measuring.measure)
        callbacks = [*self.proxy.callbacks, probe]  # of the fit, if there has to be one
        store.get(dataclasses.replace(self.proxy, callbacks=callbacks))
        measuring.finish()


class Measuring:
    """Measures a pool at every snapshot of a proxy: during its fit, or from its saved weights.

    Both run the same engine; every step is measured once.
    """

    def __init__(self, stage: Trajectories, store: Store, out: Path) -> None:
        self.stage, self.store, self.out = stage, store, out
        self.steps = tuple(stage.proxy.steps(store))
        self._scan: Scan | None = None

    def measure(self, model: nn.Module, step: int) -> dict[str, float] | None:
        """Measure a step of a fit; its statistics, or None where an earlier attempt measured it.

        The seconds are counted for the trajectories, not for the fit.
        """
        with self.store.counted_for(self.stage):
            return self._measure(model, step)

    def _measure(self, model: nn.Module, step: int) -> dict[str, float] | None:
        started = time.monotonic()
        shards = self.shards(model)
        missing = len(shards.todo([step]))
        if not missing and distributed.rank_and_world()[1] == 1:
            return None  # of several ranks, another may have finished just now: all enter the scan
        self.scan(model).run(shards, [step], label="attention")
        if distributed.rank_and_world()[0] > 0 or not missing:
            return None
        self._record_seconds([step], time.monotonic() - started)
        scan = self.scan(model)
        column = shards.column(step)
        return flat(statistics(column, scan.text_lengths[scan.plan.order]))

    def saved(self, local_rank: int | None = None) -> None:
        """Measure the steps that the fit has not measured, all in one pass."""
        proxy = self.stage.proxy
        model = load(self.store.get(proxy.start)).model
        device = device_for(proxy.hardware.accelerator, local_rank)
        cast_parameters(model, getattr(torch, self.stage.weights), device)  # no float32 copy of it
        shards = self.shards(model)
        steps = [step for step in self.steps if len(shards.todo([step]))]
        started = time.monotonic()
        self.scan(model).run(shards, steps, self._read, label="attention")
        if steps and distributed.rank_and_world()[0] == 0:
            self._record_seconds(steps, time.monotonic() - started)

    def finish(self) -> None:
        """Measure the remaining steps, merge the shards of all ranks, and remove them."""
        scan = self._scan or self.scan(load(self.store.get(self.stage.proxy.start)).model)
        shards = self.shards(scan.model)
        values_path = self.out / "values.npy"
        late = (
            []
            if values_path.exists()
            else [step for step in self.steps if len(shards.todo([step]))]
        )
        if distributed.launched():
            has_values = values_path.exists()
            distributed.barrier()  # all ranks have checked
            if not has_values:
                self.saved()
            if distributed.rank_and_world()[0] > 0:
                return
        elif late:
            side_by_side(self.stage.proxy.hardware.devices, self)
        if not values_path.exists():
            shards.merge(values_path, scan.plan.order, len(scan.reasons))
        summary_of_step = self._describe(np.load(values_path), scan)
        if logger := self.stage.proxy.logger:
            for step in late:  # the others went there during the fit
                logger.log_metrics(logged(flat(summary_of_step[step])), step)
            logger.save()
        shutil.rmtree(shards.folder, ignore_errors=True)  # nothing, if there is no image

    def scan(self, model: nn.Module) -> Scan:
        """The pass over the pool with this model."""
        if self._scan is None or self._scan.model is not model:
            proxy = self.stage.proxy
            _, tokenizer, processor = all_but_weights(self.store.get(proxy.start))
            material = Material(
                proxy.tokens().open(self.store),
                pictures_of(proxy.image_stage(), processor, self.store),
                proxy.pool.open(self.store).shown,
                pad=tokenizer.pad_token_id,
                max_length=proxy.max_length,
            )
            running = dataclasses.replace(
                self.stage.running, weights=self.stage.weights, workers=proxy.hardware.workers
            )
            self._scan = Scan(model, material, self.stage.spectra, running)
        return self._scan

    def shards(self, model: nn.Module) -> Shards:
        """The shards measured so far, in the draft of the result."""
        bounds = self.scan(model).plan.bounds
        return Shards(self.out / "shards", bounds, self.steps, self.stage.spectra.k)

    def _read(self, step: int) -> dict[str, Tensor]:
        return self.stage.proxy.weights_at(self.store, step)

    def _describe(
        self, values: Float[np.ndarray, "rows steps k"], scan: Scan
    ) -> dict[int, dict[str, Any]]:
        reasons = scan.reasons.copy()
        reasons[(reasons == MEASURED) & np.isnan(values).any(axis=(1, 2))] = NO_TEXT
        summary_of_step = {
            step: statistics(values[:, at], scan.text_lengths) for at, step in enumerate(self.steps)
        }
        np.save(self.out / "reasons.npy", reasons)
        np.save(self.out / "steps.npy", np.array(self.steps))
        (self.out / "statistics.json").write_text(json.dumps(summary_of_step, indent=2))
        lines = [{"step": step} | flat(summary) for step, summary in summary_of_step.items()]
        with (self.out / "statistics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, lines[0])
            writer.writeheader()
            writer.writerows(lines)
        return summary_of_step

    def _record_seconds(self, steps: Sequence[int], seconds: float) -> None:
        clock = self.out / "scan_seconds.json"
        seconds_of_step = json.loads(clock.read_text()) if clock.exists() else {}
        seconds_of_step |= {str(step): round(seconds / len(steps), 3) for step in steps}
        write_atomically(clock, lambda path: path.write_text(json.dumps(seconds_of_step)))


def side_by_side(devices: int, measuring: Measuring) -> None:
    """Measure saved steps on this many devices, a process each."""
    if devices == 1:
        return measuring.saved()
    meeting = measuring.out / "shards" / f"meeting-{uuid.uuid4().hex}"  # removed with the shards
    meeting.parent.mkdir(exist_ok=True)
    arguments = (devices, str(meeting.resolve()), measuring.stage, measuring.store, measuring.out)
    spawn(_one_of_several, arguments, nprocs=devices)
    return None


def _one_of_several(
    rank: int, world: int, meeting: str, stage: Trajectories, store: Store, out: Path
) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world
    )
    try:
        Measuring(stage, store, out).saved(rank)
    finally:
        torch.distributed.destroy_process_group()
