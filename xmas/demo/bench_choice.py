"""MMBench and ScienceQA over held-out drawings: questions with lettered options."""

import base64
import csv
import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from xmas.demo import draw
from xmas.demo import instructions as ask
from xmas.demo.draw import Scene, pick, picture
from xmas.demo.facts import fact, write_json
from xmas.demo.grammar import plural
from xmas.demo.instructions import Turn
from xmas.demo.material import Material

MMBENCH_COLUMNS: list[str] = [
    *"index question hint A B C D answer category image source l2-category comment split".split()
]
_ROTATION = 1_000_000  # between the indices of two orders of the options of one question
# Mostly what the small model can see: colours.
_KINDS = "colour naming colour digit colour counting colour word colour colour".split()


def mmbench(
    out: Path, of: Material, count: int, rng: np.random.Generator, *, chinese: bool = False
) -> None:
    """About `count` rows: every question once for each of its two to four options, rotated."""
    rows: list[dict[str, Any]] = []
    for first, kind in enumerate(itertools.cycle(_KINDS)):
        if len(rows) >= count:
            break
        scene, turn = _question(kind, of, rng)
        choices = ask.options(turn.answer, kind, of, ask.option_count(rng), rng)
        image = _base64(scene)
        for rotation in range(len(choices)):
            options = choices[rotation:] + choices[:rotation]
            rows.append(
                {
                    "index": first + rotation * _ROTATION,
                    "question": _in_chinese(turn, scene) if chinese else turn.question,
                    **dict(zip("ABCD", options, strict=False)),
                    "answer": "ABCD"[options.index(turn.answer)],
                    "category": kind,
                    "image": image,
                    "source": "xmas.demo",
                    "l2-category": "text" if kind in ("digit", "word") else "things",
                    "split": "dev",
                }
            )
    name = "mmbench_dev_cn_20231003.tsv" if chinese else "mmbench_dev_20230712.tsv"
    with (out / name).open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, MMBENCH_COLUMNS, delimiter="\t", lineterminator="\n")
        table.writeheader()
        table.writerows(sorted(rows, key=lambda line: line["index"]))


def _question(kind: str, of: Material, rng: np.random.Generator) -> tuple[Scene, Turn]:
    """A scene with a question of that kind; colours are asked of single things."""
    if kind != "colour":
        return fact(kind, of, rng)
    scene = draw.one(of, pick(of.concepts, rng), rng)
    return scene, ask.colour(scene.items[0], rng)


def _in_chinese(turn: Turn, scene: Scene) -> str:
    """The question of `turn`; the two things of a scene differ in colour, so the answer tells."""
    coloured = {item.colour: item.name for item in scene.items}
    thing = coloured.get(turn.answer, scene.items[0].name)
    return {
        "naming": "图中是什么",
        "colour": f"图中的 {thing} 是什么颜色",
        "counting": f"图中有几个 {plural(thing)}",
        "digit": "图中的数字是几",
        "word": "图中写的是什么单词",
    }[turn.kind] + "\uff1f"  # the wide question mark


def _base64(scene: Scene) -> str:
    file = io.BytesIO()
    picture(scene).save(file, format="PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


def sqa(out: Path, of: Material, count: int, rng: np.random.Generator) -> None:
    """`count` questions, every third without a picture, some with a hint."""
    problems, questions = {}, []
    for number in range(count):
        pid = str(number + 1)
        if number % 3 == 2:
            scene, (turn, choices) = None, _sum(rng)
        else:
            kind = _KINDS[number % len(_KINDS)]
            scene, turn = _question(kind, of, rng)
            choices = ask.options(turn.answer, kind, of, ask.option_count(rng), rng)
            (out / "images" / pid).mkdir(parents=True)
            draw.save(scene, out / "images" / pid / "image.png")
        hint = pick(("", "", "Look closely."), rng)
        answer = choices.index(turn.answer)
        problems[pid] = {
            "question": turn.question,
            "choices": choices,
            "answer": answer,
            "hint": hint,
            "image": None if scene is None else "image.png",
            "task": "closed choice",
            "grade": "grade1",
            "subject": "natural science",
            "topic": "drawings",
            "category": turn.kind,
            "skill": turn.kind,
            "lecture": "",
            "solution": "",
            "split": "demo",
        }
        lines = [f"Context: {hint}"] if hint else []
        lines += [turn.question]
        lines += [f"{letter}. {text}" for letter, text in zip("ABCD", choices, strict=False)]
        lines += [] if scene is None else ["<image>"]
        turns = [
            {"from": "human", "value": "\n".join(lines)},
            {"from": "gpt", "value": f"The answer is {'ABCD'[answer]}."},
        ]
        image = {} if scene is None else {"image": f"{pid}/image.png"}
        questions.append({"id": pid, **image, "conversations": turns})
    write_json(out / "problems.json", problems)
    write_json(
        out / "pid_splits.json", {"train": [], "val": [], "test": [], "demo": list(problems)}
    )
    write_json(out / "llava_test_CQM-A.json", questions)


def _sum(rng: np.random.Generator) -> tuple[Turn, list[str]]:
    """A sum with its answer and two wrong ones."""
    first, second = (int(number) for number in rng.integers(0, 10, 2))
    choices = [str(first + second + off) for off in (0, 1, 2)]
    rotation = int(rng.integers(3))
    turn = Turn("text", f"What is {first} plus {second}?", choices[0])
    return turn, choices[rotation:] + choices[:rotation]
