"""How answers are generated: batch, precision, and the control with other questions' images."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from xmas.evaluation.protocol import Question
from xmas.store import volatile

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
        name = _SHORT.get(str(self.precision), self.precision)
        if name not in PRECISIONS:
            raise ValueError(
                f"generation.precision={self.precision!r}: expected one of "
                f"{', '.join((*PRECISIONS, *_SHORT))}"
            )
        object.__setattr__(self, "precision", name)

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
        if self.control == "none":
            return None
        if self.control != "shuffled":
            raise ValueError(f"generation.control={self.control!r}: expected none or shuffled")
        return derangement(
            [number for number, question in enumerate(questions) if question.image is not None],
            len(questions),
            np.random.default_rng(self.seed),
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
