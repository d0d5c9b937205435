"""The engine: attention spectra of a whole pool under any number of snapshots, in one pass.

Every image is decoded and encoded once, by the frozen tower; the weights of all snapshots stay on
the device where they fit. The language model's head is not computed, and a pass ends at the last
layer that is read. An image of several rows is run once, with the tokens before it; its rows
continue from that KV cache. Used during training, with the current weights, and after it, with
saved ones.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache

from xmas.attention.capture import PrefixAttention, attention_of, prefix_of
from xmas.attention.collector import Collector, finite, refuse_non_finite
from xmas.attention.feed import Feed, Loaded, Material
from xmas.attention.metric import Spectra
from xmas.attention.plan import consecutive, plan
from xmas.attention.prefix import branches, can_be_shared, nothing_cached
from xmas.attention.reasons import MEASURED, reasons, refuse_several
from xmas.attention.shards import Shards
from xmas.attention.spans import Spans
from xmas.attention.unit_collectors import between_images, collector_of
from xmas.attention.weights import Read, Weights
from xmas.models.cpu_matmul import by_onednn
from xmas.models.families import Features
from xmas.models.vlm import (
    image_features,
    language_inputs,
    language_model,
    refuse_whole,
    runs_whole,
    unwrap,
)
from xmas.store import volatile
from xmas.store.distributed import barrier, rank_and_world
from xmas.store.progress import bar

UNSOLVED_BYTES = 1 << 28  # attention of a unit that waits for the solver; one snapshot may be more


@dataclasses.dataclass(frozen=True)
class Running:
    """How a scan runs.

    The fields without `volatile` can change the last bits of values and are part of the identity.
    """

    weights: str | None = None  # precision of the model: bfloat16, float16; None: float32
    shard_rows: int = 4096  # rows between two saves: at most these are lost when it is killed
    shared_from: float = 0.05  # share a prefix that saves this fraction of an image's tokens
    resident_bytes: int | None = volatile(None)  # for snapshots; None: half of the free memory
    workers: int = volatile(0)  # processes that load batches


class Scan:
    """A pass over a pool: `plan` has the order of its rows; `run` or `once` runs it.

    `reasons` (rows,) uint8 are the codes of `xmas.attention.reasons`: why a row has no value.
    """

    def __init__(
        self, model: nn.Module, material: Material, spectra: Spectra, running: Running
    ) -> None:
        self.model = model
        self.spectra = spectra
        self.running = running
        self.precision: torch.dtype = getattr(torch, running.weights or "float32")
        llava = unwrap(model)
        spans = Spans.of(material.table, material.shown)
        self.text_lengths = material.table.text_lengths - spans.before
        self.reasons = reasons(material.table, spans, spectra)
        has_values = self.reasons == MEASURED
        self.whole = runs_whole(model)
        if spectra.unmasked:
            refuse_whole(model, "features.trajectories.spectra.mode=model")
            refuse_several(material.table.image_counts, "features.trajectories.spectra.mode=model")
            self.plan = consecutive(
                spans, has_values, shard_rows=running.shard_rows, max_length=material.max_length
            )
        else:
            longest = int(material.table.lengths.max(initial=0))
            shareable = not self.whole and can_be_shared(language_model(model).config, longest)
            if self.whole:
                spans = Spans.whole(material.table)
            self.plan = plan(
                spans,
                has_values,
                batch_tokens=spectra.tokens_of_batch(next(model.parameters()).device.type),
                shard_rows=running.shard_rows,
                shared_from=running.shared_from if shareable else 1.0,
            )
        self.feed = Feed(
            material.table,
            spans,
            material.pictures,
            image_token=llava.config.image_token_id,
            pad=material.pad,
            workers=running.workers,
            pinned=next(model.parameters()).is_cuda,
            first_image=spectra.images == "first",
        )

    def run(
        self, shards: Shards, steps: Sequence[int], read: Read | None = None, *, label: str
    ) -> None:
        """Measure the shards that are not measured at these steps, and write them.

        With several processes, each measures its part, and all return when all have finished. The
        model has its own weights again afterwards.

        Args:
            shards: of the bounds of `plan`.
            steps: of the snapshots.
            read: returns the trained weights after a step; None: the weights of the model.
            label: of the progress bar.

        Raises:
            FloatingPointError: attention is not finite; names rows and layers.
        """
        rank, world = rank_and_world()
        weights = Weights(self.model, self.precision)
        groups = weights.groups(steps, read, self.running.resident_bytes) if read else [[*steps]]
        for group in groups:
            is_measured = shards.done()
            todo = {
                shard: [step for step in group if not is_measured[shard, shards.steps.index(step)]]
                for shard in range(rank, shards.count, world)
            }
            todo = {shard: missing_steps for shard, missing_steps in todo.items() if missing_steps}
            for shard, values in self._measured(todo, weights, group, read, label):
                shards.write(shard, todo[shard], values, rank=rank)
        barrier()

    def once(self, label: str) -> Float[np.ndarray, "rows k"]:
        """The values of all rows with the weights of the model; NaN for rows without a value."""
        values = np.full((len(self.reasons), self.spectra.k), np.nan, dtype=np.float32)
        todo = {shard: [0] for shard in range(self.plan.shards)}
        weights = Weights(self.model, self.precision)
        for shard, shard_values in self._measured(todo, weights, [0], None, label):
            values[self.plan.rows(shard)] = shard_values[:, 0]
        return values

    @torch.no_grad()
    def _measured(
        self,
        todo: Mapping[int, Sequence[int]],
        weights: Weights,
        group: Sequence[int],
        read: Read | None,
        label: str,
    ) -> Iterator[tuple[int, Float[np.ndarray, "rows steps k"]]]:
        """Shards with their values at the steps of `todo`; the weights of `group` are resident."""
        if not todo:
            return
        rows = sum(len(self.plan.rows(shard)) for shard in todo)
        units = {shard: list(self.plan.units(shard)) for shard in todo}
        loaded_units = self.feed(
            [unit for units_of_shard in units.values() for unit in units_of_shard]
        )
        with (
            _evaluating(self.model),
            by_onednn(language_model(self.model).config.hidden_size),
            weights.resident(group, read) as snapshots,
            bar(total=rows, label=label, whole=False) as progress,
        ):
            for shard, units_of_shard in units.items():
                values = []
                for _ in units_of_shard:
                    values.append(
                        self._unit(next(loaded_units), weights, snapshots, todo[shard], label)
                    )
                    progress.update(len(values[-1]))
                yield shard, np.concatenate(values)

    def _unit(
        self,
        loaded: Loaded,
        weights: Weights,
        snapshots: dict[int, dict[str, Tensor]],
        steps: Sequence[int],
        label: str,
    ) -> Float[np.ndarray, "rows steps k"]:
        loaded = loaded.to(next(self.model.parameters()).device)
        weights.use(snapshots[steps[0]])  # the frozen tower is the same in all
        features = image_features(self.model, loaded.pictures, self.precision)
        later = [image_features(self.model, text.pictures, self.precision) for text in loaded.texts]
        batches: list[Collector] = []
        measured: list[Float[Tensor, "rows some columns"]] = []
        unsolved: list[list[Collector]] = []
        for step in steps:
            weights.use(snapshots[step])
            batches = list(self._batches(loaded, features, later))
            unsolved.append(batches)
            bytes_each = sum(batch.nbytes for batch in batches)
            if step == steps[-1] or (len(unsolved) + 1) * bytes_each > UNSOLVED_BYTES:
                measured.append(self._solved(unsolved))
                unsolved = []
        columns = torch.cat(measured, dim=1).cpu().numpy()  # the host waits for the device here
        rows = np.concatenate(loaded.unit.batches)
        refuse_non_finite(
            columns[..., self.spectra.k :] > 0,
            rows=loaded.unit.rows[rows],
            snapshots=[f"{label}, step {step}" for step in steps],
            layers=batches[0].seen,
        )
        return columns[np.argsort(rows), :, : self.spectra.k]

    def _solved(self, snapshots: Sequence[Sequence[Collector]]) -> Float[Tensor, "rows steps _"]:
        """The values of a unit, batch after batch, by a call of the solver for each; and next to
        them 1 for each layer whose attention is finite, otherwise 0.
        """
        values = [self.spectra.values(batch) for batch in zip(*snapshots, strict=True)]
        return torch.cat([torch.cat(values), finite(snapshots).float()], dim=2)

    def _batches(
        self, loaded: Loaded, features: Features | None, later: Sequence[Features | None]
    ) -> Iterator[Collector]:
        """The attention of the batches of a unit, with the weights that are in use.

        Args:
            features: of the images of the prefixes.
            later: of the later images of each batch.
        """
        unit = loaded.unit
        language = language_model(self.model)
        if self.whole:
            yield from self._whole_rows(loaded, later)
            return
        prefix = language_inputs(
            self.model,
            loaded.prefix_ids,
            features,
            loaded.pictures.get("sizes"),
            image_places=loaded.image_places,
        )
        cache, no_cache = DynamicCache(), nothing_cached(language.config.num_hidden_layers)
        between: PrefixAttention | None = None
        if unit.shared:
            reading = prefix_of(language, self.spectra.hooked(language))
            if loaded.text.shape[1]:
                between = between_images(self.spectra, language, loaded)
                reading = attention_of(language, between, stop=True)
            with reading:
                language(**prefix.arguments, past_key_values=cache, use_cache=True)
        for text, text_features in zip(loaded.texts, later, strict=True):
            inputs = language_inputs(
                self.model,
                text.ids,
                text_features,
                text.pictures.get("sizes"),
                image_places=text.image_places,
            )
            join = inputs.after if unit.shared else inputs.joined_to
            collector = collector_of(self.spectra, language, text, loaded, between)
            with attention_of(language, collector, stop=True):
                language(
                    **join(prefix, text.which).arguments,
                    past_key_values=branches(cache, text.which) if unit.shared else no_cache,
                    use_cache=unit.shared,
                )
            yield collector

    def _whole_rows(self, loaded: Loaded, images: Sequence[Features | None]) -> Iterator[Collector]:
        """`_batches` of a model that runs whole, once a snapshot: nothing precedes its rows."""
        language = language_model(self.model)
        for text, features in zip(loaded.texts, images, strict=True):
            inputs = language_inputs(self.model, text.ids, features, mask=text.mask)
            collector = collector_of(self.spectra, language, text, loaded, None)
            with attention_of(language, collector, stop=True):
                language(**inputs.arguments, use_cache=False)
            yield collector


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """`model.eval()`, not compiled, within the context; all is undone afterwards.

    Blocks compiled for a fit would be traced again and again: other attention, other weights.
    """
    modes = {module: module.training for module in model.modules()}
    compiled = {module: call for module in modes if (call := module._compiled_call_impl)}
    model.eval()
    for module in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for module, call in compiled.items():
            module._compiled_call_impl = call
