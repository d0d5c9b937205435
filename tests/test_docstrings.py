"""The examples in docstrings run: in an empty folder with a pool of three rows, `mix.json`."""

import doctest
import importlib
import json
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "xmas").rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]
ROWS = [
    ("coco/1.png", "What is this?", "A fig."),
    ("coco/2.png", "What colour is it?", "It is navy."),
    (None, "What is two plus three?", "Five."),
]


def record(image: str | None, question: str, answer: str) -> dict:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    if image is None:
        return {"conversations": turns}
    turns[0]["value"] = f"<image>\n{question}"
    return {"image": image, "conversations": turns}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "images" / "coco").mkdir(parents=True)
    for name in ("1", "2"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / "coco" / f"{name}.png")
    (tmp_path / "mix.json").write_text(json.dumps([record(*row) for row in ROWS]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_a_user_calls_has_an_example():
    names = {"xmas.data.pool", "xmas.selection.protocol", "xmas.selection.ranking"}
    assert names | {"xmas.selection.subset"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_give_what_they_say(place, name):
    report = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert report.attempted > 0
    assert report.failed == 0
