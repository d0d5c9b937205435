"""How answers are generated: batch, precision, and the control with other questions' images."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xmas.evaluation.generation.answer_file import note_generation
from xmas.evaluation.protocol import Question
from xmas.store import Store, describe, distributed, key, versions, volatile

if TYPE_CHECKING:
    import xmas.target.target

PRECISIONS = ("float16", "bfloat16", "float32", "float64")
_SHORT = {"bf16": "bfloat16", "16": "float16", "32": "float32", "64": "float64"}


@dataclasses.dataclass(frozen=True)
class Generation:
    """How answers are generated: part of a score's identity; only equal ones are compared.

    The defaults are the papers' way, one question at a time in half precision: LLaVA's
    `llava/eval/model_vqa*.py`.

    Args:
        batch: questions that are decoded together; more is faster and may change a token.
        precision: of weights and activations, the name of a torch dtype; or bf16, 16, 32, 64.
        control: `shuffled` shows every question the image of another one.
        seed: of the shuffling.
        workers: threads that decode images ahead.
        graphs: on a GPU, replay decode steps as CUDA graphs: the same bits, sooner.
    """

    batch: int = 1
    precision: Any = "float16"  # a str: a short one is made long
    control: str = "none"
    seed: int = 0
    workers: int = volatile(0)
    graphs: bool = volatile(True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", checked_precision(self.precision))

    def corrections(self) -> dict[str, Any]:
        """In 16 bits, rotary frequencies stay float32; before they were rounded too."""
        return {} if self.precision == "float32" else {"buffers": "float32"}

    def protocol(self) -> str:
        """The name under which tables compare scores."""
        return f"greedy, {self.precision}, batch {self.batch}"

    def image_order(self, questions: Sequence[Question]) -> np.ndarray | None:
        """The question whose image each question is shown; None: its own.

        Raises ValueError: `control` is unknown, or fewer than two questions have an image.
        """
        return shuffled_order(self.control, self.seed, questions)

    def answer(
        self,
        target: "xmas.target.target.Target",
        questions: Sequence[Question],
        *,
        store: Store,
        max_new_tokens: int,
        label: str,
        out: Path,
    ) -> None:
        """Generate the answers of a target, and write `generation.json` next to them.

        Args:
            max_new_tokens: per answer.
            label: the benchmark, in messages and progress.
            out: LLaVA's answer lines, in the order of the questions.
        """
        import torch

        from xmas.evaluation.generation.generate import generate_answers
        from xmas.evaluation.loaded_target import load_target
        from xmas.models.device import device_for

        order = self.image_order(questions)
        device = device_for(target.hardware.accelerator)
        parts = load_target(target, store, getattr(torch, self.precision), device)
        how = {
            "protocol": self.protocol(),
            "batch": self.batch,
            "dtype": str(parts.model.dtype).removeprefix("torch."),
            "attention": parts.model.config.text_config._attn_implementation,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "max_new_tokens": max_new_tokens,
            "template": describe(target.template),
            "versions": versions(),
        }
        if distributed.rank_and_world()[0] == 0:
            note_generation(out, how)
        generate_answers(
            parts,
            parts.encoder(target.template, target.max_length),
            questions,
            max_new_tokens=max_new_tokens,
            batch=self.batch,
            out=out,
            model_id=f"{target.start.kind}-{key(target)}",
            label=label,
            image_order=order,
            workers=self.workers,
            graphs=self.graphs,
        )


def checked_precision(precision: Any) -> str:
    """The name of a torch dtype. Raises ValueError: torch has no such type."""
    name = _SHORT.get(str(precision), precision)
    if name not in PRECISIONS:
        raise ValueError(
            f"generation.precision={precision!r}: expected one of "
            f"{', '.join((*PRECISIONS, *_SHORT))}"
        )
    return name


def shuffled_order(control: str, seed: int, questions: Sequence[Question]) -> np.ndarray | None:
    """The question whose image each question is shown; None: its own.

    Raises ValueError: `control` is unknown, or fewer than two questions have an image.
    """
    if control == "none":
        return None
    if control != "shuffled":
        raise ValueError(f"generation.control={control!r}: expected none or shuffled")
    return derangement(
        [number for number, question in enumerate(questions) if question.image is not None],
        len(questions),
        np.random.default_rng(seed),
    )


def derangement(members: list[int], count: int, rng: np.random.Generator) -> np.ndarray:
    """An order of `count` positions in which a random cycle permutes `members`.

    So no question with an image keeps its own, and the others stay in place. Raises ValueError:
    there are fewer than two members.
    """
    if len(members) < 2:
        raise ValueError(
            f"generation.control=shuffled: {len(members)} questions with an image, 2 are needed"
        )
    order = np.arange(count)
    shuffled = rng.permutation(np.array(members, dtype=np.int64))
    order[shuffled] = np.roll(shuffled, 1)
    return order
