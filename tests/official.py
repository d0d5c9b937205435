"""Made-up benchmark files in the official formats and of the official sizes, with answers.

Truths and answers are drawn from few words, so that some answers are right; what a row looks like
is the owners', what stands in it means nothing.
"""

import base64
import csv
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from toy import picture_name

from xmas.evaluation.benchmarks.gqa import Gqa
from xmas.evaluation.benchmarks.mmbench import CHINESE, MMBench
from xmas.evaluation.benchmarks.mme import COGNITION, PERCEPTION, Mme
from xmas.evaluation.benchmarks.pope import OFFICIAL, Pope
from xmas.evaluation.benchmarks.sqa import Sqa
from xmas.evaluation.benchmarks.textvqa import TextVqa, TextVqaNoOcr
from xmas.evaluation.benchmarks.vizwiz import UNSURE, VizWizVal
from xmas.evaluation.benchmarks.vqav2 import VqaV2Val
from xmas.evaluation.protocol import LETTER, SHORT, Benchmark

WORDS = "red blue a dog two 3 yes no Coca-Cola unanswerable on the left 10,000 don't know".split()
ASKED = {  # question, answer and picture of the toy, by id
    "a1": ("What is this?", "crimson disc", 0),
    "a2": ("Is it navy?", "no", 5),
    "a3": ("Which shape?", "box", 5),
    "a4": ("How many?", "3", 7),
    "a5": ("Is it gold?", "yes", 0),
}
NOT_SHUFFLED = ("vqav2_val",)  # too large for the quick tests
_encode = json.JSONEncoder().encode  # as `json.dumps`, without its call


@dataclasses.dataclass(frozen=True)
class Given:
    """A benchmark with its official numbers, the files it reads, and answers to all of it."""

    benchmark: Benchmark
    files: tuple[Path, ...]
    answers: Path


def _lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join([f"{_encode(row)}\n" for row in rows]))
    return path


def _json(path: Path, found: object) -> Path:
    path.write_text(json.dumps(found))
    return path


def _row(name: str | int, image: str, text: str, category: str = "default") -> dict[str, Any]:
    return {"question_id": name, "image": image, "text": text, "category": category}


def _tens(rng: np.random.Generator, count: int) -> list[list[str]]:
    """Ten people's answers to each of so many questions, of few words a question."""
    places = rng.integers(0, 4, (count, 10)) + rng.integers(0, len(WORDS) - 4, (count, 1))
    return [[WORDS[place] for place in of_question] for of_question in places.tolist()]


def _answers(folder: Path, rows: list[dict[str, Any]], rng: np.random.Generator, of=WORDS) -> Path:
    texts = rng.integers(0, len(of), len(rows)).tolist()
    return _lines(
        folder / "answers.jsonl",
        (
            {
                "question_id": row["question_id"],
                "prompt": row["text"],
                "text": of[place],
                "answer_id": "Qe8sN3",
                "model_id": "llava-v1.5-7b",
                "metadata": {},
            }
            for row, place in zip(rows, texts, strict=True)
        ),
    )


def small_gqa(folder: Path, images: Path) -> Gqa:
    """A GQA of five questions about the toy's pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"question_id": name, "text": text + SHORT, "image": picture_name(picture)}
        for name, (text, _, picture) in ASKED.items()
    ]
    (folder / "asked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    truth = {name: {"answer": answer} for name, (_, answer, _) in ASKED.items()}
    (folder / "truth.json").write_text(json.dumps(truth))
    files = str(folder / "asked.jsonl"), str(folder / "truth.json"), str(images)
    return Gqa(*files, count=None)


def gqa(folder: Path, rng: np.random.Generator) -> Given:
    rows = [_row(f"20{n:07d}", f"n{n}.jpg", f"Is it {n}?{SHORT}") for n in range(12_578)]
    types = {"structural": "query", "semantic": "rel", "detailed": "relO"}
    truth = {
        row["question_id"]: {"answer": WORDS[place], "types": types, "isBalanced": True}
        for row, place in zip(rows, rng.integers(0, 8, len(rows)).tolist(), strict=True)
    }
    files = _lines(folder / "asked.jsonl", rows), _json(folder / "truth.json", truth)
    benchmark = Gqa(str(files[0]), str(files[1]), str(folder))
    return Given(benchmark, files, _answers(folder, rows, rng))


def pope(folder: Path, rng: np.random.Generator) -> Given:
    (folder / "coco").mkdir()
    rows, files = [], []
    for step, (category, count) in enumerate(OFFICIAL.items()):
        labels = [
            {
                "question_id": n,
                "image": f"COCO_val2014_{n // 6:012d}.jpg",
                "text": f"Is there a thing {n} in the image?",
                "label": ("yes", "no")[n % 2],
            }
            for n in range(1, count + 1)
        ]
        files.append(_lines(folder / "coco" / f"coco_pope_{category}.json", labels))
        for label in labels:
            name = step * 10_000_000 + label["question_id"]
            rows.append(_row(name, label["image"], label["text"] + SHORT, category))
    asked = _lines(folder / "asked.jsonl", rows)
    benchmark = Pope(str(asked), str(folder / "coco"), str(folder))
    return Given(benchmark, (asked, *files), _answers(folder, rows, rng, ["Yes", "No", "No."]))


def mme(folder: Path, rng: np.random.Generator) -> Given:
    (folder / "Your_Results").mkdir()
    tasks = (*PERCEPTION, *COGNITION)
    rows: list[dict[str, Any]] = []
    listed: dict[str, list[str]] = {task: [] for task in tasks}
    for image in range(2374 // 2):
        task = tasks[image % len(tasks)]
        for number, truth in enumerate(("Yes", "No")):
            question = f"Is it {image} or {number}?"
            rows.append(_row(f"{task}/{image}.png", f"{task}/{image}.png", question + SHORT, task))
            listed[task].append(f"{image}.jpg\t{question} Please answer yes or no.\t{truth}\n")
    files = []
    for task in tasks:
        files.append(folder / "Your_Results" / f"{task}.txt")
        files[-1].write_text("".join(listed[task]))
    asked = _lines(folder / "asked.jsonl", rows)
    benchmark = Mme(str(asked), str(folder / "Your_Results"), str(folder))
    return Given(benchmark, (asked, *files), _answers(folder, rows, rng, ["Yes", "No"]))


def mmbench(folder: Path, rng: np.random.Generator, chinese=False, image=60) -> Given:
    """1,176 questions: 938 with four options, 149 with three, 89 with two; 4,377 rows."""
    columns = "index question hint A B C D answer category image source l2-category split".split()
    rows = []
    for first, count in enumerate([4] * 938 + [3] * 149 + [2] * 89):
        options = [f"{WORDS[place]} {place}" for place in rng.permutation(8)[:count]]
        right = int(rng.integers(count))
        for turn in range(count):
            turned = options[turn:] + options[:turn]
            rows.append(
                {
                    "index": first + turn * 1_000_000,
                    "question": f"Which is {first}?",
                    "hint": "",
                    **dict(zip("ABCD", turned, strict=False)),
                    "answer": "ABCD"[(right - turn) % count],
                    "category": f"kind {first % 20}",
                    "image": base64.b64encode(rng.bytes(image)).decode(),
                    "source": "made",
                    "l2-category": f"sort {first % 6}",
                    "split": "dev",
                }
            )
    path = folder / "dev.tsv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    named = {"name": "mmbench_cn", "suffix": CHINESE, "split": "dev_cn_20231003"}
    benchmark = MMBench(str(path), str(path), **(named if chinese else {}))
    said = [{"question_id": row["index"], "text": LETTER} for row in rows]
    answers = _answers(folder, said, rng, ["A", "B"])
    if not chinese:  # half the questions right, whatever the order of the options
        given = [json.loads(line) for line in answers.read_text().splitlines()]
        for line, row in zip(given, rows, strict=True):
            line["text"] = row["answer"] if row["index"] % 2 else line["text"]
        _lines(answers, given)
    return Given(benchmark, (path,), answers)


def mmbench_cn(folder: Path, rng: np.random.Generator, image=60) -> Given:
    return mmbench(folder, rng, chinese=True, image=image)


def sqa(folder: Path, rng: np.random.Generator) -> Given:
    asked, problems, rows = [], {}, []
    for number in range(4241):
        name, pictured = str(number * 5), number < 2017
        choices = ["one", "other", "third"][: 2 + number % 2]
        problems[name] = {
            "question": f"Which is {number}?", "choices": choices, "answer": number % 2,
            "hint": "", "subject": "natural science", "grade": "grade4", "split": "test",
            "lecture": "A lecture. " * 7, "solution": "",
        }  # fmt: skip
        turn = {"from": "human", "value": f"Which is {number}?\nA. one\nB. other\n<image>"}
        image = {"image": f"{name}/image.png"} if pictured else {}
        asked.append({"id": name, **image, "conversations": [turn]})
        rows.append({"question_id": name, "text": turn["value"]})
    problems |= {f"t{n}": problems["0"] | {"split": "train"} for n in range(16_967)}
    splits = {"train": [f"t{n}" for n in range(16_967)], "test": [row["id"] for row in asked]}
    files = (
        _json(folder / "asked.json", asked),
        _json(folder / "problems.json", problems),
        _json(folder / "pid_splits.json", splits),
    )
    benchmark = Sqa(str(files[0]), str(files[1]), str(folder), str(files[2]))
    return Given(benchmark, files[:2], _answers(folder, rows, rng, ["A", "B", "C", "neither"]))


def textvqa(folder: Path, rng: np.random.Generator, kind: type[TextVqa] = TextVqa) -> Given:
    rows, truth = [], []
    for number, answers in enumerate(_tens(rng, 5000)):
        image, question = f"{number % 3166:016x}", f"what does {number} say?"
        ocr = "\nReference OCR token: a, b" if kind.has_ocr else ""
        rows.append(_row(image, f"{image}.jpg", question.capitalize() + ocr + SHORT))
        truth.append({"image_id": image, "question": question, "answers": answers})
    files = _lines(folder / "asked.jsonl", rows), _json(folder / "truth.json", {"data": truth})
    benchmark = kind(str(files[0]), str(files[1]), str(folder))
    return Given(benchmark, files, _answers(folder, rows, rng))


def textvqa_noocr(folder: Path, rng: np.random.Generator) -> Given:
    return textvqa(folder, rng, TextVqaNoOcr)


def vizwiz_val(folder: Path, rng: np.random.Generator) -> Given:
    rows, truth = [], []
    for number, ten in enumerate(_tens(rng, 4319)):
        image, question = f"VizWiz_val_{number:08d}.jpg", "What is this?"
        rows.append(_row(image, image, question + UNSURE + SHORT))
        answers = [{"answer": said, "answer_confidence": "yes"} for said in ten]
        truth.append(
            {"image": image, "question": question, "answers": answers, "answer_type": "other"}
        )
    files = _lines(folder / "asked.jsonl", rows), _json(folder / "val.json", truth)
    benchmark = VizWizVal(str(files[0]), str(files[1]), str(folder))
    return Given(benchmark, files, _answers(folder, rows, rng))


def vqav2_val(folder: Path, rng: np.random.Generator) -> Given:
    questions, truth, rows = [], [], []
    for number, ten in enumerate(_tens(rng, 214_354)):
        name, image = number * 7, number // 5
        questions.append({"image_id": image, "question": f"What is {number}?", "question_id": name})
        rows.append({"question_id": name, "text": f"What is {number}?{SHORT}"})
        truth.append(
            {
                "question_type": f"what is {number % 65}",
                "multiple_choice_answer": "red",
                "answers": [
                    {"answer": said, "answer_confidence": "maybe", "answer_id": place}
                    for place, said in enumerate(ten, start=1)
                ],
                "image_id": image,
                "answer_type": ("other", "number", "yes/no")[number % 3],
                "question_id": name,
            }
        )
    about = {"data_subtype": "val2014"}
    files = (
        _json(folder / "questions.json", about | {"questions": questions}),
        _json(folder / "truth.json", about | {"annotations": truth}),
    )
    benchmark = VqaV2Val(str(files[0]), str(files[1]), str(folder))
    return Given(benchmark, files, _answers(folder, rows, rng))


WRITERS = (
    vqav2_val, gqa, vizwiz_val, sqa, textvqa, textvqa_noocr, pope, mme, mmbench, mmbench_cn,
)  # fmt: skip
