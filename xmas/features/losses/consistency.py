"""How much the image helps with the answer, and the answer with the question, of every row.

All four losses of a row come from one batch, whose images are decoded and encoded once.
"""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float

from xmas.features.losses.answer_scorer import AnswerScorer, ScorerSettings, WithoutImages
from xmas.features.losses.pos_weights import TokenWeights, WeightTable
from xmas.features.losses.rewritten import Rewritten
from xmas.features.losses.token_statistics import answer_token_statistics
from xmas.features.losses.turn_losses import mean_ratio, predicted, turn_losses, turn_numbers
from xmas.models.chat.batches import Batch, collate
from xmas.models.chat.tokens import Tokenised, TokenTable
from xmas.models.device import device_for
from xmas.models.families import Features
from xmas.models.precision import cast_parameters
from xmas.models.vlm import head_of, hidden_states, load, unwrap, vocabulary_of
from xmas.store import (
    Stage,
    Store,
    describe,
    distributed,
    nearest_stages,
    volatile,
    write_atomically,
)
from xmas.training.model_on_pool import HasWeights

VIC, RIC = range(2)  # columns
WEIGHTS = ("none", "pos")
FROM_IMAGE = "Ask a question about this image."
FROM_ANSWER = 'Ask the question about this image that has the answer "{answer}".'


class ConsistencyScorer(AnswerScorer):
    """VIC and RIC of rows with an image, under a model's snapshots.

    Attributes:
        tables: by name: `answers`, the rows as they are; `blind`, the same without images;
            `from_image` and `from_answer`, whose labels are the questions.
        weights: of the tokens of each; empty: all weigh the same.
    """

    names = ("vic", "ric", "turns")
    tables: Mapping[str, TokenTable]
    weights: Mapping[str, WeightTable]

    def _step(self, batch: Batch, features: Features | None) -> Float[np.ndarray, "rows k"]:
        losses = {
            name: self._turn_losses(name, batch, None if name == "blind" else features)
            for name in self.tables
        }
        values = [
            (mean_ratio(blind, seen), mean_ratio(from_image, from_answer), len(seen))
            for seen, blind, from_image, from_answer in zip(
                losses["answers"],
                losses["blind"],
                losses["from_image"],
                losses["from_answer"],
                strict=True,
            )
        ]
        return np.array(values, dtype=np.float32)

    def _turn_losses(
        self, name: str, batch: Batch, features: Features | None
    ) -> list[Float[np.ndarray, " turns"]]:
        """The loss of every turn of the batch's rows in one of the tables."""
        table = self.tables[name]
        tokens = [table[row] for row in batch.rows.tolist()]
        lines = collate(
            batch.rows.tolist(),
            tokens,
            image_token=unwrap(self.model).config.image_token_id,
            pad=self.pad,
            pictures=lambda rows: {},
        ).to(batch.ids.device)
        sizes = batch.pictures.get("sizes") if features is not None else None
        hidden = hidden_states(self.model, lines.ids, lines.mask, features, sizes=sizes)
        values, answered = answer_token_statistics(
            head_of(self.model), hidden, lines.labels, vocabulary=vocabulary_of(self.model)
        )
        ends = np.cumsum(answered.sum(dim=1).cpu().numpy())
        of_rows = np.split(values[:, 0].cpu().numpy(), ends[:-1])
        weights = self.weights.get(name)
        return [
            turn_losses(
                of_row,
                turn_numbers(row_tokens),
                None if weights is None else weights[row][predicted(row_tokens)],
            )
            for row, row_tokens, of_row in zip(batch.rows.tolist(), tokens, of_rows, strict=True)
        ]

    def _check(self, values: Float[np.ndarray, "rows k"], rows: Any, label: str) -> None:
        """A row with one loss cut away has NaN there, and no fault."""
        super()._check(np.where(np.isnan(values), 0.0, values), rows, label)


@dataclasses.dataclass(frozen=True)
class Consistency(Stage):
    """VIC and RIC of every row with an image, under a model after the last step of its fit.

    Writes `values.npy` (rows, 2) float32: VIC = exp(L(y|x) - L(y|x,I)), how much the image I helps
    with the answer y to the question x; RIC = exp(L(x|I) - L(x|y,I)), how much the answer helps
    with the question. L is the weighted mean loss of a turn's tokens, VIC and RIC are means over
    turns. NaN on text-only rows, on rows whose image is after the cut in one of the four
    conversations, and where nothing is left to compare.

    Source: DICS (arXiv 2608.30209), sections 3 and 4. Deviations: for L(y|x) the image's tokens are
    left out (`WithoutImages`), where DICS masks them in an unchanged sequence. Ours, since it is
    not said: the words that ask for a question, and that a turn's losses are conditioned on the
    turns before it, as in training: L(x|I) on the questions before, L(x|y,I) also on their answers.

    Args:
        model: DICS: the target, fitted to a random 5 % of the pool and thrown away afterwards.
        weights: of tokens: `pos`, by part of speech, see `TokenWeights`; `none`: all the same.
        tagger: of `pos`.
        from_image, from_answer: what asks for a question; `{answer}` is the place of the answer.
    """

    kind: ClassVar[str] = "consistency"
    together: ClassVar[bool] = True

    model: HasWeights
    weights: str = "none"
    tagger: str = volatile("en_core_web_sm")
    from_image: str = FROM_IMAGE
    from_answer: str = FROM_ANSWER
    how: ScorerSettings = dataclasses.field(default_factory=ScorerSettings)

    @property
    def precision(self) -> str:
        """The precision of the model, by torch's name."""
        return self.how.weights or self.model.feature_precision

    def corrections(self) -> dict[str, Any]:
        """The precision, also where it is the fit's; the tagger where one is used."""
        tagger = {"tagger": self.tagger} if self.weights == "pos" else {}
        how = describe(dataclasses.replace(self.how, weights=self.precision))
        return {"how": how} | tagger

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ValueError(
                f"features.consistency.weights={self.weights!r}: expected one of "
                f"{', '.join(WEIGHTS)}"
            )

    def tokens(self) -> dict[str, Tokenised]:
        """The conversations whose losses are measured, by name; `blind` is `answers`."""
        plain = self.model.tokens()
        return {
            "answers": plain,
            "blind": plain,
            "from_image": Rewritten.of(plain, how="question_from_image", ask=self.from_image),
            "from_answer": Rewritten.of(plain, how="question_from_answer", ask=self.from_answer),
        }

    def token_weights(self) -> dict[str, TokenWeights]:
        """The weights of `tokens`, by name."""
        if self.weights == "none":
            return {}
        return {name: TokenWeights(each, self.tagger) for name, each in self.tokens().items()}

    def inputs(self) -> list[Stage]:
        stages = [*nearest_stages(self.model), *self.model.inputs()]
        return [*stages, *self.tokens().values(), *self.token_weights().values()]

    def compute(self, store: Store, out: Path) -> None:
        """Raises FloatingPointError: a loss is not finite; names the row."""
        for stage in self.inputs():
            store.get(stage)  # by all ranks, before one of them needs it alone
        tokens = self.tokens()
        tables = {name: each.open(store) for name, each in tokens.items()}
        plain = tokens["answers"]
        tables["blind"] = WithoutImages(store.get(plain), plain.layout(store))
        has_image = np.all(
            [table.image_at >= 0 for name, table in tables.items() if name != "blind"], axis=0
        )
        parts = load(store.get(self.model.start))
        device = device_for(self.model.hardware.accelerator)
        cast_parameters(parts.model, getattr(torch, self.precision), device)
        scorer = ConsistencyScorer(
            parts.model,
            tables["answers"],
            np.flatnonzero(has_image),
            pictures=self.model.pictures(store, parts),
            pad=parts.tokenizer.pad_token_id,
            how=dataclasses.replace(
                self.how, weights=self.precision, workers=self.model.hardware.workers
            ),
            lengths=np.max([table.lengths for table in tables.values()], axis=0),
        )
        scorer.tables = tables
        scorer.weights = {name: each.open(store) for name, each in self.token_weights().items()}
        shards = scorer.shards(out / "parts", self.model.steps(store)[-1:])
        scorer.run(shards, lambda step: self.model.weights_at(store, step), label="consistency")
        if distributed.rank_and_world()[0] > 0:
            return
        values = shards.merge(out / "whole.npy", scorer.order, len(has_image))[:, -1, :2]
        write_atomically(out / "values.npy", lambda path: _save(path, values))
        shutil.rmtree(out / "parts", ignore_errors=True)
        (out / "whole.npy").unlink()


def _save(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:  # numpy would append a suffix to a path
        np.save(file, values)
