"""The answers that rows have, under a target: their losses, and how much of them it would say.

Nothing is generated: one forward pass over a row, as in training, gives the probability of every
token of its answers after the tokens before it. Where all tokens of an answer are the model's first
choice, greedy decoding gives this very answer, so an exact match needs no decoding either. Rows of
several rounds and several images, and rows without one, are rendered as in training.
"""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int

from xmas.attention.plan import length_batches
from xmas.data.near_copies.text_sketches import FORMATS, format_of
from xmas.data.pool import Pool
from xmas.evaluation.given_answers import GivenAnswers
from xmas.evaluation.loaded_target import load_target
from xmas.features.losses.token_statistics import STATISTICS, answer_token_statistics
from xmas.models.chat.batches import Batch, Loader
from xmas.models.chat.labels import Tokens
from xmas.models.chat.tokens import TokenTable
from xmas.models.device import device_for
from xmas.models.vision_cache import features_of
from xmas.models.vlm import LoadedModel, head_of, hidden_states, unwrap, vocabulary_of
from xmas.store import Stage, Store, distributed, nearest_stages, write_atomically
from xmas.store.arrays import ArrayInParts
from xmas.store.progress import bar
from xmas.target.target import Target
from xmas.training.model_on_pool import SeesPool
from xmas.training.starts.unfitted import Unfitted

BATCH_TOKENS = 8192  # padded tokens of a batch, image tokens included; a batch has a row at least
_MARK_ROWS = 512  # rows between two checkpoints, the most that a killed pass loses
_SHORT = frozenset(FORMATS) - {"sentence", "long"}  # up to five words on a line


@dataclasses.dataclass(frozen=True)
class AnswerLosses(Stage):
    """`answers.npy` (answers, 3) int64: row, tokens, whether it is short; `values.npy` (answers, 2)
    float64: loss and right tokens. See `GivenAnswers`.

    Rows whose answers are empty or after the cut at `max_length` have none. Ranks share the rows;
    an interrupted attempt resumes after its last part.

    Args:
        pool: whose rows are scored.
        precision: of weights and activations, a dtype of torch.
    """

    kind: ClassVar[str] = "answer_losses"
    together: ClassVar[bool] = True

    target: Target
    pool: Pool
    precision: str

    @property
    def on_pool(self) -> SeesPool:
        """Tokens and pictures of the pool, as the target has those of its rows."""
        target = self.target
        return Unfitted(
            self.pool,
            target.start,
            target.template,
            max_length=target.max_length,
            hardware=target.hardware,
        )

    def inputs(self) -> list[Stage]:
        return [*nearest_stages(self.pool), *self.on_pool.inputs(), self.target]

    def compute(self, store: Store, out: Path) -> None:
        """Raises FloatingPointError: a loss is not finite; names the row."""
        for stage in nearest_stages(self.pool):
            store.get(stage)  # by all ranks, before one of them needs it alone
        table = self.on_pool.tokens().open(store)
        device = device_for(self.target.hardware.accelerator)
        parts = load_target(self.target, store, getattr(torch, self.precision), device)
        answers = answers_of(table, parts.tokenizer, self.target.max_length)
        first = np.searchsorted(answers[:, 0], np.arange(len(table) + 1))
        rows = np.flatnonzero(np.diff(first))
        batches = [rows[batch] for batch in length_batches(table.lengths[rows], 0, BATCH_TOKENS)]
        groups = _grouped(batches)
        array = ArrayInParts(
            out / "values.npy",
            np.float64,
            (len(answers), 2),
            [_answers_in(np.concatenate(group), first) for group in groups],
        )
        loader = Loader(
            table,
            [batch for number in array.todo for batch in groups[number]],
            image_token=unwrap(parts.model).config.image_token_id,
            pad=parts.tokenizer.pad_token_id,
            pictures=self.on_pool.pictures(store, parts),
            workers=self.target.hardware.workers,
        )
        loaded = iter(loader)
        total = array.rows(array.own)
        initial = total - array.rows(array.todo)
        with bar(total=total, label="answer losses", unit="answer", initial=initial) as progress:
            for number in array.todo:
                values = []
                for _ in groups[number]:
                    batch = next(loaded)
                    tokens = answers[_answers_in(batch.rows, first), 1]
                    values.append(self._values(store, batch, tokens, parts))
                    progress.update(len(values[-1]))
                array.write(number, np.concatenate(values))
        array.finish()
        if distributed.rank_and_world()[0] == 0:
            write_atomically(out / "answers.npy", lambda path: _save(path, answers))

    def read(self, store: Store) -> GivenAnswers:
        """The result, computed if it is not there."""
        folder = store.get(self)
        row, tokens, short = np.load(folder / "answers.npy").T
        loss, right = np.load(folder / "values.npy").T
        return GivenAnswers(row, tokens, short.astype(bool), loss, right.astype(np.int64))

    @torch.no_grad()
    def _values(
        self, store: Store, batch: Batch, tokens: Int[np.ndarray, " answers"], parts: LoadedModel
    ) -> Float[np.ndarray, "answers 2"]:
        """Loss and right tokens of the answers of a batch, whose lengths are `tokens`."""
        model = parts.model
        weight = next(model.parameters())
        batch = batch.to(weight.device)
        hidden = hidden_states(
            model,
            batch.ids,
            batch.mask,
            features_of(model, batch, weight.dtype),
            sizes=batch.pictures.get("sizes"),
        )
        statistics, _ = answer_token_statistics(
            head_of(model), hidden, batch.labels, vocabulary=vocabulary_of(model)
        )
        of_tokens = statistics.cpu().numpy()
        loss = of_tokens[:, STATISTICS.index("loss")]
        right = of_tokens[:, STATISTICS.index("margin")] > 0  # the most likely token, and alone
        ends = np.cumsum(tokens)
        values = np.add.reduceat(np.stack([loss, right], axis=1), ends - tokens)
        bad = np.flatnonzero(~np.isfinite(values[:, 0]))
        if len(bad):
            answered = (batch.labels[:, 1:] >= 0).sum(dim=1).cumsum(dim=0).cpu().numpy()
            row = int(batch.rows[np.searchsorted(answered, ends[bad[0]])])
            examples = self.pool.open(store)
            raise FloatingPointError(
                f"{examples.annotations}: row {examples.file_row(row)}: the loss of its answer is "
                f"{values[bad[0], 0]} in {self.precision}; inspect this row, or set "
                "generation.precision=bfloat16 or float32"
            )
        return values


def answers_of(table: TokenTable, tokenizer: Any, max_length: int) -> Int[np.ndarray, "answers 3"]:
    """Row, tokens and whether it is short of every answer of a table, row after row.

    What `max_length` cuts may look short, and is not.
    """
    answers = []
    for row in np.flatnonzero(table.answered).tolist():
        tokens = table[row]
        for start, stop in spans(tokens):
            text = tokenizer.decode(tokens.ids[start:stop], skip_special_tokens=True).strip()
            is_complete = stop < len(tokens.ids) or len(tokens) < max_length
            is_short = bool(text) and is_complete and format_of(text) in _SHORT
            answers.append((row, stop - start, int(is_short)))
    return np.array(answers, dtype=np.int64).reshape(-1, 3)


def spans(tokens: Tokens) -> list[tuple[int, int]]:
    """First token and end of every answer of a row; its first token, which nothing predicts, is in
    none.
    """
    labelled = tokens.labelled.copy()
    if tokens.image_at != 0:
        labelled[:1] = False
    edges = np.flatnonzero(np.diff(labelled, prepend=False, append=False))
    return [(start, stop) for start, stop in edges.reshape(-1, 2).tolist()]


def _answers_in(
    rows: Int[np.ndarray, " rows"], first: Int[np.ndarray, " pool_1"]
) -> Int[np.ndarray, " answers"]:
    """The positions of all answers of rows, in the order of the rows."""
    return np.concatenate([np.arange(*first[row : row + 2].tolist()) for row in rows.tolist()])


def _grouped(batches: list[Int[np.ndarray, " _"]]) -> list[list[Int[np.ndarray, " _"]]]:
    """Consecutive batches, in groups of at least `_MARK_ROWS` rows but for the last."""
    starts = np.cumsum([0, *map(len, batches)])[:-1] // _MARK_ROWS
    return [
        [batches[number] for number in np.flatnonzero(starts == mark)] for mark in np.unique(starts)
    ]


def _save(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:  # numpy would append a suffix to a path
        np.save(file, values)
