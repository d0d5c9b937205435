"""A fit ends once its loss is low enough, whether it was interrupted before or not."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Callback
from toy import CAPTION_RECIPE, HARDWARE, ROWS, Toy, losses

from xmas.models.vlm import freeze_tower, load
from xmas.training.fit.callbacks import Checkpoints
from xmas.training.fit.stop_at_loss import LossStopper, StopAtLoss
from xmas.training.fit.trainer import fit

RECIPE = dataclasses.replace(CAPTION_RECIPE, epochs=3, clip=1.0)  # 18 optimiser steps


def test_the_mean_of_the_last_steps_is_below():
    enough = StopAtLoss(0.5, steps=3)
    assert not enough.reached([0.1, 0.1])  # too few to tell
    assert not enough.reached([0.0, 0.6, 0.5, 0.4])  # 0.5 is not below
    assert enough.reached([9.0, 0.6, 0.5, 0.3])


@pytest.mark.parametrize(("field", "value"), [("loss", 0.0), ("loss", float("nan")), ("steps", 0)])
def test_what_is_never_reached_is_refused(field, value):
    with pytest.raises(ValueError, match=rf"enough\.{field} {value}"):
        StopAtLoss(**{"loss": 1.0, field: value})


def test_a_fit_ends_there_also_when_it_was_interrupted(toy: Toy, tmp_path):
    def fitted(name: str, *callbacks: Callback) -> list[float]:
        parts, out = load(toy.store.get(toy.untrained)), tmp_path / name
        out.mkdir(exist_ok=True)
        freeze_tower(parts.model)
        fit(
            parts.model, toy.proxy.tokens().open(toy.store), np.arange(ROWS),
            toy.vision.pictures(toy.store), recipe=RECIPE, hardware=HARDWARE, seed=0, out=out,
            label=name, pad=parts.tokenizer.pad_token_id, callbacks=callbacks,
        )  # fmt: skip
        return [row["loss"] for row in losses(out)]

    whole = fitted("whole")
    means = np.convolve(whole, np.ones(3) / 3, "valid")
    until = LossStopper(StopAtLoss(float(means[:8].min() + 1e-6), steps=3), "enough")
    ends = int(np.argmax(means < until.enough.loss)) + 3  # steps
    assert 3 < ends < len(whole)
    assert fitted("enough", until) == whole[:ends]
    for step in (ends - 1, ends):  # also of the last step there may be a checkpoint
        with pytest.raises(InterruptedError):
            fitted(f"interrupted at {step}", until, Interrupted(step))
        assert (tmp_path / f"interrupted at {step}" / "last.ckpt").exists()
        assert fitted(f"interrupted at {step}", until) == whole[:ends]


class Interrupted(Callback):
    """A fit dies behind a step, a moment after its checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            (checkpoints,) = (
                callback for callback in trainer.callbacks if isinstance(callback, Checkpoints)
            )
            checkpoints.save(trainer)
            raise InterruptedError


def test_a_start_says_what_is_enough(toy: Toy):
    start = toy.start
    ended = dataclasses.replace(start, enough=StopAtLoss(99.0, steps=2))
    assert len(losses(toy.store.get(ended))) == 2
    assert len(losses(toy.store.get(start))) == RECIPE.steps(ROWS) // 3
