"""A judge's ratings: what it is asked, what counts as one, and what is not asked again."""

import base64
import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from fake_judge import FakeJudge, Fault, prompt_of
from toy import ROWS, TEXT_ONLY, Toy

from xmas.evaluation.endpoint.responses import EndpointError
from xmas.evaluation.judge.judge import Judge
from xmas.evaluation.judge.ratings import FILE, Ratings
from xmas.selection.methods.column import Column
from xmas.selection.protocol import Ranked
from xmas.store import Store

IMAGES = [row for row in range(ROWS) if row not in TEXT_ONLY]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "store"))


def ratings(toy: Toy, url: str, **options) -> Ratings:
    judge = Judge("rater", base_url=url, at_once=3, tries=1)
    return Ratings(toy.pool, judge, "Rate:\n{conversation}", **options)


def read(file) -> dict[int, int]:
    with open(file, newline="") as lines:
        return {int(row["row"]): int(row["rating"]) for row in csv.DictReader(lines)}


def test_every_row_with_an_image_is_rated(toy, store):
    with FakeJudge(lambda body, number: str(1 + len(prompt_of(body)) % 5)) as judge:
        stage = ratings(toy, judge.url)
        file = stage.make(store)
        assert stage.make(store) == file  # nothing is asked again
        assert len(judge.requests) == len(IMAGES)
    by_prompt = {prompt_of(body): body for body in judge.requests}
    examples = toy.pool.open()
    rated = read(file)
    assert [*rated] == IMAGES
    for row in (0, 1, 25):
        text = "\n".join(f"Question: {q}\nAnswer: {a}" for q, a in examples.conversation(row))
        prompt = f"Rate:\n{text}"
        assert rated[row] == 1 + len(prompt) % 5
        image, said = by_prompt[prompt]["messages"][0]["content"]
        assert said == {"type": "text", "text": prompt}
        kind, content = image["image_url"]["url"].split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content) == examples.images_of(row)[0].read_bytes()
        body = by_prompt[prompt]
        assert (body["model"], body["max_tokens"], body["temperature"]) == ("rater", 16, 0)


def test_a_reply_without_a_rating_is_asked_for_again_and_then_left_out(toy, store, caplog):
    def say(body: dict, number: int) -> str:
        words = prompt_of(body)
        if "navy" in words:
            return "I cannot say."
        return "4 of 5" if "teal" in words and not number else "5"

    with FakeJudge(say) as judge:
        file = ratings(toy, judge.url).make(store)
    talks = {row: str(toy.pool.open().conversation(row)) for row in IMAGES}
    navy = {row for row, talk in talks.items() if "navy" in talk}
    assert set(read(file)) == set(IMAGES) - navy
    assert set(read(file).values()) == {5}
    replies = (Path(file).parent / "replies.jsonl").read_text()
    counts = np.bincount([json.loads(line)["row"] for line in replies.splitlines()])
    assert all(counts[row] >= 2 for row in navy)
    assert f"{len(navy)} of {len(IMAGES)} replies have no rating from 1 to 5" in caplog.text
    column = Column(file=file, missing="last")
    ranked: Ranked = column.rank(toy.pool, np.random.default_rng(0), store)
    assert set(np.flatnonzero(np.isnan(ranked.scores)).tolist()) == navy | set(TEXT_ONLY)


def test_what_was_paid_for_is_kept(toy, store):
    def say(body: dict, number: int) -> str | Fault:
        refused = "Answer: 30" in prompt_of(body)  # of row 30: others are asked before it
        return Fault(400) if refused else "3"

    with FakeJudge(say) as judge:
        stage = ratings(toy, judge.url)
        with pytest.raises(EndpointError, match=r"row \d+: .*HTTP 400"):
            store.get(stage)
    drafts = [*Path(store.root).glob("ratings/.*/replies.jsonl")]
    kept = sum(len(draft.read_text().splitlines()) for draft in drafts)
    with FakeJudge(lambda body, number: "3") as judge:
        judged = dataclasses.replace(stage.judge, base_url=judge.url)
        assert len(read(dataclasses.replace(stage, judge=judged).make(store))) == len(IMAGES)
        assert len(judge.requests) == len(IMAGES) - kept
    assert kept


def test_wrong_settings_are_refused(toy):
    with pytest.raises(ValueError, match=r"ratings.prompt: \{conversation\} is missing"):
        dataclasses.replace(ratings(toy, "http://localhost"), prompt="Rate it.")
    with pytest.raises(ValueError, match=r"ratings.tries=0: expected 1 or more"):
        ratings(toy, "http://localhost", tries=0)


def test_a_file_of_ratings_has_a_name():
    assert FILE.endswith(".csv")  # a form that `ScoreFile` reads
