"""Looking at every row of a pool with a proxy's model, a vector of each kept on disk."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from xmas.models.chat.batches import Batch, Loader
from xmas.models.vlm import LoadedModel, load
from xmas.store import Store, write_atomically
from xmas.store.progress import bar
from xmas.training.proxy import Proxy


@dataclasses.dataclass(frozen=True)
class Looks:
    """A proxy's model that looks at the proxy's pool.

    `name` is the node of the configuration, for messages; `step` one of the fit's, null for the
    last, 0 for the start point, which costs no fit; `weights` the precision of model and stream.
    """

    name: str
    proxy: Proxy
    step: int | None
    weights: str

    def parts(self, store: Store) -> LoadedModel:
        """Raises ValueError: the proxy does not keep the step; says which it keeps."""
        proxy = self.proxy
        if self.step == 0:
            parts = load(store.get(proxy.start))
        else:
            steps = proxy.steps(store)
            if self.step not in (None, *steps):
                raise ValueError(
                    f"features.{self.name}.step={self.step}: the proxy keeps steps {steps}; null "
                    "is the last, 0 the start point"
                )
            parts = proxy.load(store, self.step or steps[-1])
        on_cpu = proxy.hardware.accelerator == "cpu" or not torch.cuda.is_available()
        model = parts.model.to("cpu" if on_cpu else "cuda", getattr(torch, self.weights))
        return dataclasses.replace(parts, model=model)

    def fill(
        self,
        store: Store,
        parts: LoadedModel,
        out: Path,
        *,
        batches: list[Int[np.ndarray, " _"]],
        width: int,
        mark_rows: int,
        of: Callable[[Batch], Float[np.ndarray, "rows width"]],
    ) -> None:
        """`values.npy` (rows, width) float16, batch by batch `of` each, memory-mapped.

        Batches come on the model's device, pixels and features in its precision. What an
        interrupted attempt has filled up to its last mark, every `mark_rows` rows, is kept.
        """
        table = self.proxy.tokens().open(store)
        values = _memory_map(out / "values.npy", len(table), width)
        mark = out / "batches.txt"
        done = int(mark.read_text()) if mark.exists() else 0
        loader = Loader(
            table,
            batches,
            image_token=parts.model.config.image_token_id,
            pad=parts.tokenizer.pad_token_id,
            pictures=self.proxy.pictures(store, parts),
            workers=self.proxy.hardware.workers,
            consumed=done,
        )
        unmarked = 0
        seen = sum(map(len, batches[:done]))
        with bar(total=len(table), label=self.name.replace("_", " "), initial=seen) as progress:
            for number, batch in enumerate(loader, done + 1):
                values[batch.rows] = of(_placed(batch, parts))
                progress.update(len(batch.rows))
                unmarked += len(batch.rows)
                if unmarked >= mark_rows:
                    values.flush()
                    write_atomically(mark, lambda path, at=number: path.write_text(str(at)))
                    unmarked = 0
        values.flush()
        mark.unlink(missing_ok=True)

    def check(self, batch: Batch, values: Float[np.ndarray, "rows width"]) -> None:
        """Raise FloatingPointError naming the rows of a batch that are not finite."""
        broken = ~np.isfinite(values).all(axis=1)
        if broken.any():
            raise FloatingPointError(
                f"{self.name.replace('_', ' ')}: rows {sorted(batch.rows[broken].tolist())} are "
                f"not finite; set features.{self.name}.weights=float32, or look at these rows"
            )


def _placed(batch: Batch, parts: LoadedModel) -> Batch:
    model = parts.model
    batch = batch.to(model.device)
    batch.pictures = {
        name: held.to(model.dtype) if held.is_floating_point() else held
        for name, held in batch.pictures.items()
    }
    return batch


def _memory_map(path: Path, rows: int, width: int) -> np.memmap:
    """A float16 array on disk; the one that an interrupted attempt left, where there is one."""
    if path.exists():
        return np.lib.format.open_memmap(path, mode="r+")
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, width))
