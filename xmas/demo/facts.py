"""A drawing with one question about it, and benchmark rows as LLaVA's question files have them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from xmas.demo import draw
from xmas.demo import instructions as ask
from xmas.demo.draw import Scene, pick
from xmas.demo.grammar import NO_ARTICLE
from xmas.demo.instructions import Turn
from xmas.demo.material import Material


def fact(kind: str, of: Material, rng: np.random.Generator) -> tuple[Scene, Turn]:
    """A new scene and a question of `kind` about it."""
    if kind in ("digit", "word"):
        scene = draw.written(of, kind, rng)
        return scene, ask.reading(scene, rng)
    if kind == "spatial":
        scene = draw.two(of, rng)
        return scene, ask.spatial(scene, rng)[0]
    if kind == "counting":
        scene = several(of, int(rng.integers(1, 10)), rng)
        return scene, ask.counting(scene, rng)
    if kind == "colour" and rng.integers(2):
        scene = draw.two(of, rng)
        return scene, ask.colour(pick(scene.items, rng), rng)
    scene = draw.one(of, pick(of.concepts, rng), rng)
    if kind == "presence":
        return scene, ask.presence(scene, of, rng, there=bool(rng.integers(2)))
    if kind == "colour":
        return scene, ask.colour(scene.items[0], rng)
    return scene, ask.naming(scene, rng)


def several(of: Material, count: int, rng: np.random.Generator) -> Scene:
    """`count` drawings of a thing that can be counted."""
    return draw.several(of, pick([t for t in of.concepts if t not in NO_ARTICLE], rng), count, rng)


def ten_answers(turn: Turn, of: Material, rng: np.random.Generator) -> list[str]:
    """The answers of ten annotators: mostly all equal, else up to three are different."""
    answer = turn.answer.lower()
    others = int(rng.integers(1, 4)) if rng.random() < 0.3 else 0
    if turn.kind not in ("naming", "colour", "counting", "digit", "word"):
        return [answer] * 10
    (wrong,) = (option for option in ask.options(answer, turn.kind, of, 2, rng) if option != answer)
    return [answer] * (10 - others) + [wrong] * others


def row(question_id: str | int, image: str, text: str, category: str = "default") -> dict[str, Any]:
    """A line of a LLaVA question file."""
    return {"question_id": question_id, "image": image, "text": text, "category": category}


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines."""
    path.write_text(
        "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in rows), encoding="utf-8"
    )


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
