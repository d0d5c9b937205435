"""The engine: attention spectra of a whole pool under any number of snapshots, in one pass.

Every picture is decoded and encoded once, by the frozen tower; all snapshots' weights stay on the
device where they fit. The language model's head is left out and a pass ends at the last layer that
is read. A picture that several rows show is run once, with the tokens in front of it; its rows
go on from there. Used during a fit, with the weights of the moment, and behind it, with saved ones.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from xmas.attention.capture import attention_of, prefix_of
from xmas.attention.collector import Collector
from xmas.attention.feed import Feed, Loaded, Text
from xmas.attention.metric import Spectra
from xmas.attention.plan import Spans, consecutive, plan
from xmas.attention.prefix import branches, can_be_shared
from xmas.attention.reasons import MEASURED, reasons
from xmas.attention.shards import Shards
from xmas.attention.weights import Read, Weights
from xmas.models.chat.tokens import TokenTable
from xmas.models.cpu_matmul import by_onednn
from xmas.models.vision_cache import Pictures
from xmas.models.vlm import embed_in_order, language_model, tower_features, unwrap
from xmas.store import volatile
from xmas.store.distributed import barrier, place
from xmas.store.progress import bar


@dataclasses.dataclass(frozen=True)
class Running:
    """How a scan runs."""

    weights: str | None = None  # of model and stream: bfloat16, float16; null: float32
    shard_rows: int = 4096  # measured between two marks: what a killed scan loses at most
    shared_from: float = 0.05  # of a picture's tokens that are saved by running its prefix once
    resident_bytes: int | None = volatile(None)  # of all weights; null: half of the free memory
    workers: int = volatile(0)  # processes that load batches


@dataclasses.dataclass(frozen=True)
class Material:
    """What is measured: a pool's tokens, its pictures, and the number of each row's picture."""

    table: TokenTable
    pictures: Pictures
    picture: Int[np.ndarray, " rows"]
    pad: int
    max_length: int | None = None  # of a pass, mode released; null: not cut


class Scan:
    """A pass over a pool that is yet to run: what is measured of it, in which order.

    `reasons` (rows,) uint8 says why a row has no value, as in `xmas.attention.reasons`.
    """

    def __init__(
        self, model: nn.Module, material: Material, spectra: Spectra, running: Running
    ) -> None:
        self.model = model
        self.spectra = spectra
        self.running = running
        self.precision: torch.dtype = getattr(torch, running.weights or "float32")
        llava = unwrap(model)
        spans = Spans.of(material.table, material.picture)
        self.reasons = reasons(material.table, spans, spectra)
        measured = self.reasons == MEASURED
        if spectra.unmasked:
            self.plan = consecutive(
                spans, measured, shard_rows=running.shard_rows, max_length=material.max_length
            )
        else:
            longest = int(material.table.lengths.max(initial=0))
            shareable = can_be_shared(language_model(model).config, longest)
            self.plan = plan(
                spans,
                measured,
                batch_tokens=spectra.batch_tokens,
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
        )

    def run(
        self, shards: Shards, steps: Sequence[int], read: Read | None = None, *, label: str
    ) -> None:
        """Measure what `shards` lacks at these steps; with several processes, this one's share.

        `read` gives the trained weights behind a step, None means the model as it is. The model is
        left as it was. Raises FloatingPointError naming rows and layer whose attention is not
        finite.
        """
        rank, world = place()
        weights = Weights(self.model, self.precision)
        groups = weights.groups(steps, read, self.running.resident_bytes) if read else [[*steps]]
        for group in groups:
            done = shards.done()
            todo = {
                shard: [one for one in group if not done[shard, shards.steps.index(one)]]
                for shard in range(rank, shards.count, world)
            }
            todo = {shard: lacking for shard, lacking in todo.items() if lacking}
            for shard, values in self._measured(todo, weights, group, read, label):
                shards.write(shard, todo[shard], values, rank=rank)
        barrier()

    def once(self, label: str) -> Float[np.ndarray, "rows k"]:
        """The values of all rows of the pool under the model as it is; NaN where there is none."""
        values = np.full((len(self.reasons), self.spectra.k), np.nan, dtype=np.float32)
        todo = {shard: [0] for shard in range(self.plan.shards)}
        weights = Weights(self.model, self.precision)
        for shard, found in self._measured(todo, weights, [0], None, label):
            values[self.plan.rows(shard)] = found[:, 0]
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
        """Shards with their values at the steps that each lacks, `group` being resident."""
        if not todo:
            return
        units = {shard: list(self.plan.units(shard)) for shard in todo}
        loaded = self.feed([unit for each in units.values() for unit in each])
        with (
            _evaluating(self.model),
            by_onednn(),
            weights.resident(group, read) as held,
            bar(total=sum(len(self.plan.rows(shard)) for shard in todo), label=label) as progress,
        ):
            for shard, each in units.items():
                found = []
                for _ in each:
                    found.append(self._unit(next(loaded), weights, held, todo[shard], label))
                    progress.update(len(found[-1]))
                yield shard, np.concatenate(found)

    def _unit(
        self,
        loaded: Loaded,
        weights: Weights,
        held: dict[int, dict[str, Tensor]],
        steps: Sequence[int],
        label: str,
    ) -> Float[np.ndarray, "rows steps k"]:
        loaded = loaded.to(next(self.model.parameters()).device)
        weights.use(held[steps[0]])  # the frozen tower is the same in all
        features = self._features(loaded)
        found = []
        for step in steps:
            weights.use(held[step])
            found.append(self._values(loaded, features, f"{label}, step {step}"))
        return torch.stack(found, dim=1).cpu().numpy()

    def _features(self, loaded: Loaded) -> Tensor:
        given = loaded.pictures
        if "features" in given:
            return given["features"].to(self.precision)
        return tower_features(self.model, given["pixels"].to(self.precision))

    def _values(self, loaded: Loaded, features: Tensor, label: str) -> Float[Tensor, "rows k"]:
        """The values of a unit's rows, in the order of `unit.rows`."""
        unit = loaded.unit
        language = language_model(self.model)
        opening = embed_in_order(self.model, loaded.opening, features, loaded.pictures.get("sizes"))
        cache = DynamicCache()
        if unit.shared:
            with prefix_of(language, self.spectra.hooked(language)):
                language(inputs_embeds=opening, past_key_values=cache, use_cache=True)
        values = opening.new_empty((len(unit.rows), self.spectra.k), dtype=torch.float32)
        for text in loaded.texts:
            inputs = unwrap(self.model).get_input_embeddings()(text.ids)
            first = 0
            if not unit.shared:
                first = opening.shape[1]
                inputs = torch.cat([opening[text.which], inputs], dim=1)
            seen = self._collector(text, loaded, first)
            with attention_of(language, seen, stop=True):
                language(
                    inputs_embeds=inputs,
                    past_key_values=branches(cache, text.which) if unit.shared else None,
                    use_cache=unit.shared,
                )
            rows = unit.rows[text.at.cpu().numpy()]
            values[text.at] = self.spectra.values(seen, rows=rows, label=label)
        return values

    def _collector(self, text: Text, loaded: Loaded, first: int) -> Collector:
        lines, width = text.ids.shape
        return self.spectra.collector(
            language_model(self.model),
            text=(first + torch.arange(width, device=text.ids.device)).expand(lines, -1),
            text_mask=self.spectra.kept(text.held, text.answers),
            image=loaded.image[text.which],
            image_mask=loaded.shown[text.which],
        )


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
