"""GQA, VQAv2, VizWiz and TextVQA over held-out drawings: short answers.

Where the official files have ten annotators, some of them disagree here too, so that the official
leave-one-out rules matter.
"""

import itertools
from pathlib import Path

import numpy as np

from xmas.demo import draw
from xmas.demo import instructions as ask
from xmas.demo.draw import Scene, pick
from xmas.demo.facts import fact, row, ten_answers, write_json, write_lines
from xmas.demo.instructions import Turn
from xmas.demo.material import WORDS, Material
from xmas.evaluation.protocol import SHORT

UNSURE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
_GQA = ("naming", "colour", "naming", "digit", "spatial", "colour", "naming", "word", "counting")
_SEMANTIC = {
    "naming": "object",
    "presence": "object",
    "colour": "attribute",
    "counting": "attribute",
    "spatial": "relation",
    "digit": "attribute",
    "word": "attribute",
}


def gqa(out: Path, of: Material, count: int, rng: np.random.Generator) -> None:
    """`count` questions, each about another picture."""
    (out / "images").mkdir()
    questions, truth = [], {}
    for number, kind in zip(range(count), itertools.cycle(_GQA), strict=False):
        scene, turn = fact(kind, of, rng)
        name, image = f"{20_000_000 + number}", f"n{number + 1}"
        draw.save(scene, out / "images" / f"{image}.png")
        questions.append(row(name, f"{image}.png", turn.question + SHORT))
        truth[name] = {
            "question": turn.question,
            "answer": turn.answer.lower(),
            "imageId": image,
            "isBalanced": True,
            "types": {
                "structural": _structure(turn),
                "semantic": _SEMANTIC[kind],
                "detailed": kind,
            },
        }
    write_lines(out / "llava_gqa_testdev_balanced.jsonl", questions)
    write_json(out / "testdev_balanced_questions.json", truth)


def _structure(turn: Turn) -> str:
    """GQA's structural type: yes or no, one of two named answers, or open."""
    if turn.answer in ("Yes", "No"):
        return "verify"
    return "choose" if " or " in turn.question else "query"


def vqav2(out: Path, of: Material, count: int, rng: np.random.Generator) -> None:
    """About `count` questions on val2014, two for most pictures, ten answers each."""
    (out / "val2014").mkdir()
    kinds = itertools.cycle(("naming", "colour", "counting", "presence", "digit", "spatial"))
    questions, official, truth = [], [], []
    for image_id in range(1, max(1, count // 2) + 1):
        kind = next(kinds)
        scene, first = fact(kind, of, rng)
        image = f"COCO_val2014_{image_id:012d}.jpg"
        draw.save(scene, out / "val2014" / image)
        turns = [first]
        if kind != "colour":
            turns.append(ask.colour(scene.items[0], rng))
        for number, turn in enumerate(turns):
            question_id = image_id * 1000 + number
            answers = ten_answers(turn, of, rng)
            questions.append(row(question_id, image, turn.question + SHORT))
            official.append(
                {"image_id": image_id, "question": turn.question, "question_id": question_id}
            )
            truth.append(
                {
                    "question_type": " ".join(turn.question.lower().split()[:2]),
                    "multiple_choice_answer": answers[0],
                    "answers": [
                        {"answer": answer, "answer_confidence": "yes", "answer_id": place}
                        for place, answer in enumerate(answers, start=1)
                    ],
                    "image_id": image_id,
                    "answer_type": _answer_type(answers[0]),
                    "question_id": question_id,
                }
            )
    about = {
        "info": {"description": "drawn by xmas.demo"},
        "license": {},
        "data_type": "mscoco",
        "data_subtype": "val2014",
    }
    write_lines(out / "llava_vqav2_mscoco_val2014.jsonl", questions)
    write_json(
        out / "v2_OpenEnded_mscoco_val2014_questions.json",
        {**about, "task_type": "Open-Ended", "questions": official},
    )
    write_json(out / "v2_mscoco_val2014_annotations.json", {**about, "annotations": truth})


def _answer_type(answer: str) -> str:
    return "yes/no" if answer in ("yes", "no") else "number" if answer.isdigit() else "other"


def vizwiz(out: Path, of: Material, count: int, rng: np.random.Generator) -> None:
    """`count` questions of VizWiz's val split; every fifth picture is empty: unanswerable."""
    (out / "val").mkdir()
    kinds = itertools.cycle(("naming", "colour", "word", "naming"))
    questions, truth = [], []
    for number in range(count):
        image = f"VizWiz_val_{number:08d}.png"
        scene, turn = fact(next(kinds), of, rng)
        answers = ten_answers(turn, of, rng)
        if number % 5 == 4:
            scene = Scene((), pick(of.backgrounds(), rng))
            unsure = int(rng.integers(7, 11))
            answers = ["unanswerable"] * unsure + [turn.answer] * (10 - unsure)
        draw.save(scene, out / "val" / image)
        questions.append(row(image, image, turn.question.capitalize() + UNSURE + SHORT))
        truth.append(
            {
                "image": image,
                "question": turn.question,
                "answers": [{"answer": answer, "answer_confidence": "yes"} for answer in answers],
                "answer_type": "unanswerable" if answers[0] == "unanswerable" else "other",
                "answerable": int(answers[0] != "unanswerable"),
            }
        )
    write_lines(out / "llava_val.jsonl", questions)
    write_json(out / "val.json", truth)


def textvqa(out: Path, of: Material, count: int, rng: np.random.Generator) -> None:
    """About `count` questions, two per picture; the OCR tokens are sometimes wrong or empty.

    The id is that of the picture, so it repeats, as in LLaVA's file.
    """
    (out / "train_images").mkdir()
    questions, truth = [], []
    for number in range(max(1, count // 2)):
        scene, first = fact("word", of, rng)
        image = f"{number + 1:016x}"
        draw.save(scene, out / "train_images" / f"{image}.png")
        ocr = [first.answer, first.answer, first.answer, pick(WORDS, rng), ""][number % 5]
        for turn in (first, ask.colour(scene.items[0], rng)):
            question = turn.question.lower()
            text = f"{question.capitalize()}\nReference OCR token: {ocr}{SHORT}"
            questions.append(row(image, f"{image}.png", text))
            truth.append(
                {
                    "question": question,
                    "image_id": image,
                    "question_id": 34602 + len(truth),
                    "question_tokens": question.rstrip("?").split(),
                    "image_width": draw.SIDE,
                    "image_height": draw.SIDE,
                    "answers": ten_answers(turn, of, rng),
                    "set_name": "val",
                }
            )
    write_lines(out / "llava_textvqa_val_v051_ocr.jsonl", questions)
    about = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    write_json(out / "TextVQA_0.5.1_val.json", {**about, "data": truth})
