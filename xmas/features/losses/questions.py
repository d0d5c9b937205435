"""Sentence embeddings of the questions of a pool, without their images."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from xmas.data.pool import Pool
from xmas.models.device import device_for
from xmas.models.sources import Source, tokenizer_of
from xmas.models.vlm import check_finite
from xmas.store import Stage, Store, volatile
from xmas.store.progress import bar
from xmas.training.fit.recipe import Hardware


@dataclasses.dataclass(frozen=True)
class QuestionEmbeddings(Stage):
    """Embeddings of the first question of every row, as clustered by VisNec (arXiv 2603.01195).

    Writes `values.npy` (rows, d) float32, of length one: the mean over the question's tokens of the
    last hidden states, the pooling that all-MiniLM-L6-v2 was trained with.

    Args:
        encoder: a transformers model with hidden states, from the hub or from a folder.
        max_length: tokens; the default is all-MiniLM-L6-v2's.
        batch: questions in one forward pass.
        hardware: whose accelerator runs the encoder.
    """

    kind: ClassVar[str] = "questions"

    pool: Pool
    encoder: Source
    max_length: int = 256
    batch: int = volatile(128)
    hardware: Hardware = volatile(default_factory=Hardware)

    def sources(self) -> dict[str, Source]:
        return {"encoder": self.encoder}

    def compute(self, store: Store, out: Path) -> None:
        """Raises FloatingPointError: an embedding is not finite; names the row."""
        from transformers import AutoModel

        examples = self.pool.open(store)
        questions = [examples.conversation(row)[0][0] for row in range(len(examples))]
        order = np.argsort([len(question) for question in questions], kind="stable")
        folder = self.encoder.folder()
        tokenizer = tokenizer_of(folder)
        model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        model.eval().to(device_for(self.hardware.accelerator))
        values = np.zeros((len(questions), model.config.hidden_size), dtype=np.float32)
        with bar(total=len(questions), label="questions") as progress:
            for rows in np.split(order, range(self.batch, len(order), self.batch)):
                tokens = tokenizer(
                    [questions[row] for row in rows.tolist()],
                    padding=True,
                    truncation=True,
                    max_length=self.max_length,
                    return_tensors="pt",
                )
                values[rows] = _embedded(model, tokens.to(model.device)).cpu().numpy()
                progress.update(len(rows))
        check_finite(values, "embeddings of questions")
        np.save(out / "values.npy", values)


@torch.no_grad()
def _embedded(model: nn.Module, tokens: Mapping[str, Tensor]) -> Float[Tensor, "rows d"]:
    states = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None].to(states.dtype)
    mean = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)  # an empty text has no token
    return nn.functional.normalize(mean, dim=1)
