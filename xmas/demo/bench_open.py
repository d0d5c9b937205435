"""LLaVA-Bench and MM-Vet over held-out drawings: answers that a judge grades.

The references, made from the scene, and the judge's rule are ours, as the folder's README says.
File names are those of the official packs, so that one reader serves both.
"""

from pathlib import Path

import numpy as np

from xmas.demo import draw
from xmas.demo import instructions as ask
from xmas.demo.draw import Scene
from xmas.demo.facts import fact, row, write_json, write_lines
from xmas.demo.grammar import a
from xmas.demo.material import Material

_README = """\
Drawn by xmas.demo. The pictures are held-out drawings; the reference answers were made from the
drawings by a program. No GPT-4 wrote them, although the file keeps its official name, and a score
against them says nothing about LLaVA-Bench (In-the-Wild). The judge's rule is ours as well.
"""

_RULE = """\
Two assistants answered a question about a picture that you cannot see; what it shows is written
above. Grade both answers from 1 to 10 for being right, to the point and complete. The first line of
your reply holds the two grades, that of Assistant 1 first, with a space between them and nothing
else. Give your reasons behind it. Which of the two came first must not count."""


def llava_wild(out: Path, of: Material, count: int, rng: np.random.Generator) -> None:
    """Three questions per picture (conversation, detail, complex), about `count` in all."""
    (out / "images").mkdir()
    questions, contexts, references = [], [], []
    for number in range(1, max(1, count // 3) + 1):
        scene, image = draw.two(of, rng), f"{number:03d}.png"
        draw.save(scene, out / "images" / image)
        caption = _description(scene)
        contexts.append({"id": f"{number:03d}", "image": image, "caption": caption})
        first, second = scene.items
        rounds = (
            ("conv", ask.colour(first, rng).question, f"The {first.name} is {first.colour}."),
            ("detail", "Describe this image in detail.", caption),
            (
                "complex",
                f"Could the {second.name} be mistaken for the {first.name}? Explain.",
                f"No. The {second.name} is {second.colour} and the {first.name} is "
                f"{first.colour}, and they are different things.",
            ),
        )
        for category, question, answer in rounds:
            question_id = len(questions)
            questions.append(row(question_id, image, question, category))
            references.append(
                {
                    "question_id": question_id,
                    "prompt": question,
                    "answer_id": f"reference-{question_id}",
                    "model_id": "xmas.demo",
                    "metadata": {},
                    "text": answer,
                }
            )
    write_lines(out / "questions.jsonl", questions)
    write_lines(out / "context.jsonl", contexts)
    write_lines(out / "answers_gpt4.jsonl", references)
    rule = {"role": "Assistant", "prompt": _RULE}
    categories = ("conv", "detail", "complex")
    write_json(out / "rule.json", {f"llava_bench_{name}": rule for name in categories})
    (out / "README.md").write_text(_README)


def _description(scene: Scene) -> str:
    assert scene.relation is not None  # it has two things
    first, second = (a(f"{item.colour} {item.name}") for item in scene.items)
    where = {"left": "to the left of", "above": "above"}[scene.relation]
    return f"The picture shows {first} {where} {second} on a light background."


def mmvet(out: Path, of: Material, count: int, rng: np.random.Generator) -> None:
    """`count` questions, each with the abilities that it needs."""
    (out / "images").mkdir()
    questions, truth = [], {}
    abilities = {
        "naming": ["rec"],
        "colour": ["rec"],
        "counting": ["rec", "math"],
        "digit": ["ocr"],
        "word": ["ocr"],
        "spatial": ["rec", "spat"],
    }
    for number in range(count):
        kind = list(abilities)[number % len(abilities)]
        scene, turn = fact(kind, of, rng)
        image = f"v1_{number}.png"
        draw.save(scene, out / "images" / image)
        questions.append(row(number, image, turn.question))
        truth[f"v1_{number}"] = {
            "imagename": image,
            "question": turn.question,
            "answer": turn.answer,
            "imagesource": "xmas.demo",
            "capability": abilities[kind],
        }
    write_lines(out / "llava-mm-vet.jsonl", questions)
    write_json(out / "mm-vet.json", truth)
