"""The estimate of generation compared with the times of `speed.py`: the demo's size on a CPU.

    python experiments/generation/estimated.py [record.json of speed.py]

Each line: seconds as measured in the record and as estimated for one core of `hardware/cpu.yaml`.
The lengths of questions and answers are those of the record, so that only speeds are compared.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import speed

from xmas.estimate.assumed import Assumed
from xmas.estimate.per_stage.answering import answering
from xmas.estimate.question_counts import QuestionCounts
from xmas.evaluation.generation.settings import Generation
from xmas.models.shape import Shape
from xmas.training.fit.recipe import Device, Hardware

LAUNCH = 6e-6  # seconds of a core an operator: `launches.py` on a CPU
CORE = Device("a core", 0.095, 0.095, bandwidth=20, memory=4, fit=0.4, forward=0.45)
PUBLISHED = [  # README.md: model, questions, questions an image, mean new tokens, seconds by batch
    ("demo", 2000, 1, 1.1, {1: 26.0, 16: 7.5, 64: 5.6}),
    ("demo", 2000, 4, 1.1, {1: 13.3, 16: 7.2, 64: 5.8}),
    ("demo", 200, 1, 128, {1: 39.2, 16: 9.4, 64: 5.3}),
    ("demo", 200, 4, 128, {1: 61.5, 16: 9.0, 64: 5.8}),
    ("demo_336", 64, 1, 128, {1: 18.5, 16: 7.9, 64: 7.1}),
]


def of_record(path: Path) -> list[tuple[str, int, int, float, dict[int, float]]]:
    """The rows of a record of `speed.py`, as in `PUBLISHED`."""
    record = json.loads(path.read_text())
    rows = []
    for measured in record["measured"]:
        seconds = {
            int(way.removeprefix("batch ")): spent
            for way, spent in measured["seconds"].items()
            if way.removeprefix("batch ").isdecimal()
        }
        lengths = measured["questions"], measured["questions_an_image"]
        rows.append((record["command"]["model"], *lengths, measured["new_tokens"]["mean"], seconds))
    return rows


def estimated(model: str, questions: int, per_image: int, new: float, batch: int) -> float:
    shape = Shape.of(speed.sizes(model).config)
    counts = QuestionCounts(questions, questions, questions // per_image, "")
    text = speed.FRONT + sum(speed.TEXT) / 2
    options: dict[str, Any] = {"assumed": Assumed(question=text, decode=0.0, launch=LAUNCH)}
    generation = Generation(batch=batch, precision="float32")
    costs = answering("", shape, counts, generation, new=new, has_graphs=False, **options)
    return costs.seconds(Hardware("cpu", device=CORE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("record", type=Path, nargs="?", help="that speed.py --out has written")
    parser.add_argument("--tiny", action="store_true", help="as without: it takes no time")
    args = parser.parse_args()
    print(
        "| model | questions | an image | new tokens | batch | measured, s | estimated, s | ratio |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for model, questions, per_image, new, seconds in (
        PUBLISHED if args.record is None else of_record(args.record)
    ):
        for batch, spent in seconds.items():
            guess = estimated(model, questions, per_image, new, batch)
            print(
                f"| {model} | {questions:,} | {per_image} | {new:.1f} | {batch} | {spent:.1f} "
                f"| {guess:.1f} | {guess / spent:.2f} |"
            )


if __name__ == "__main__":
    main()
