"""Answers: in the order of the questions, in LLaVA's format, the same wherever resumed."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from toy import Toy, draw

from xmas.data.images.files import open_image
from xmas.evaluation.generation import generate as module
from xmas.evaluation.generation.answer_file import GenerationError
from xmas.evaluation.generation.generate import generate_answers
from xmas.evaluation.generation.settings import Generation, derangement
from xmas.evaluation.json_files import json_lines
from xmas.evaluation.outcomes import Kept, Outcomes
from xmas.evaluation.protocol import Question, Scored
from xmas.evaluation.scores import Score
from xmas.models.vlm import LoadedModel, load
from xmas.store import Store, key

QUESTIONS = 11
SHORT = 2  # tokens of an answer where answers are told apart, not counted


@pytest.fixture(scope="module")
def parts(toy: Toy) -> LoadedModel:
    """The toy's start point, its language model made talkative by large weights."""
    found = load(toy.store.get(toy.start))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, one in found.model.named_parameters():
            if "language_model.layers" in name and "norm" not in name:
                one.normal_(0, 0.3, generator=generator)
            if "multi_modal_projector" in name:
                one.normal_(0, 0.5, generator=generator)
    return found


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> list[Question]:
    """Of different lengths, the longest first; one without an image, one as bytes."""
    folder = tmp_path_factory.mktemp("questions")
    asked = []
    for number in range(QUESTIONS):
        path = folder / f"{number}.png"
        draw(number).save(path)
        image = path.read_bytes() if number == 4 else (None if number == 6 else path)
        prompt = "What is drawn" + " here" * (QUESTIONS - number) + "?"
        asked.append(Question(number * 3 if number % 2 else f"q{number}", prompt, image))
    asked[2] = dataclasses.replace(asked[2], extra={"category": "shape", "round_id": 1})
    return asked


@pytest.fixture(scope="module")
def asking(toy: Toy, parts: LoadedModel, questions):
    """Answers the questions into a file and gives its lines."""

    def run(out: Path, *, asked=questions, batch=4, tokens=6, **options):
        generate_answers(
            parts,
            parts.encoder(toy.proxy.template),
            asked,
            max_new_tokens=tokens,
            batch=batch,
            out=out,
            model_id="toy",
            label="test",
            **options,
        )
        return json_lines(out)

    return run


@pytest.fixture
def ask(asking, tmp_path: Path):
    """`asking`, by the name of the file."""
    return lambda name="answers.jsonl", **options: asking(tmp_path / name, **options)


@pytest.fixture(scope="module")
def whole(asking, tmp_path_factory):
    """The lines of an attempt that nothing interrupted, by the size of a batch; short answers."""
    folder = tmp_path_factory.mktemp("whole")
    return functools.cache(
        lambda batch: asking(folder / f"{batch}.jsonl", batch=batch, tokens=SHORT)
    )


def test_answers_stand_in_the_order_of_the_questions_in_llava_s_format(ask, questions, tmp_path):
    lines = ask()
    assert [line["question_id"] for line in lines] == [one.question_id for one in questions]
    assert [line["prompt"] for line in lines] == [one.prompt for one in questions]
    for number, line in enumerate(lines):
        wanted = ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]
        assert list(line) == wanted + (["category", "round_id"] if number == 2 else [])
        assert (line["answer_id"], line["model_id"], line["metadata"]) == ("", "toy", {})
        assert line["text"] == line["text"].strip()
    assert lines[2]["category"] == "shape"
    assert lines[2]["round_id"] == 1
    assert len({line["text"] for line in lines}) > QUESTIONS // 2  # or order would not show
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]


@torch.no_grad()
def by_hand(parts: LoadedModel, toy: Toy, question: Question, tokens: int) -> str:
    """Greedy answers the slow way: the whole text through transformers' forward for every token."""
    encoder = parts.encoder(toy.proxy.template)
    shown = None if question.image is None else parts.image_tokens(question.image)
    prompt = encoder.prompt(question.prompt, image=shown)
    ids, pixels = prompt.ids.tolist(), None
    if question.image is not None:
        image = [parts.model.config.image_token_index] * 16
        ids = ids[: prompt.image_at] + image + ids[prompt.image_at :]
        pixels = parts.processor([open_image(question.image)])
    written: list[int] = []
    for _ in range(tokens):
        logits = parts.model(input_ids=torch.tensor([ids + written]), pixel_values=pixels).logits
        best = int(logits[0, -1].argmax())
        if best == parts.tokenizer.eos_token_id:
            break
        written.append(best)
    return parts.tokenizer.decode(written, skip_special_tokens=True).strip()


def test_answers_are_the_greedy_ones(ask, parts, toy, questions):
    lines = ask(batch=1)
    for number in (0, 4, 6, 10):
        assert lines[number]["text"] == by_hand(parts, toy, questions[number], 6)
    assert all(line["text"] for line in lines)


def test_a_batch_does_not_change_the_answers(ask):
    """In float32; in half precision it may flip a token, which is why 1 is the default."""
    alone = [line["text"] for line in ask("alone.jsonl", batch=1)]
    for batch in (3, QUESTIONS):
        assert [line["text"] for line in ask(f"{batch}.jsonl", batch=batch)] == alone


def test_the_picture_and_the_prompt_matter(ask, questions):
    lines = ask("one.jsonl")
    blind = [dataclasses.replace(one, image=questions[0].image) for one in questions]
    other = ask("two.jsonl", asked=blind)
    assert lines[0]["text"] == other[0]["text"]
    assert sum(a["text"] != b["text"] for a, b in zip(lines, other, strict=True)) > 3


class Stopped(BaseException):
    """As a signal would."""


def stop_after(monkeypatch, answers: int) -> None:
    original, count = module.answer_line, 0

    def stops(*given: Any) -> dict[str, Any]:
        nonlocal count
        if count == answers:
            raise Stopped
        count += 1
        return original(*given)

    monkeypatch.setattr(module, "answer_line", stops)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("answers", [0, 1, 7])
@pytest.mark.parametrize("torn", [b"", b'{"position": 3, "li', '{"position": 3, "é'.encode()[:-1]])
def test_an_interrupted_attempt_asks_only_what_it_lacks(
    ask, whole, monkeypatch, tmp_path, batch, answers, torn
):
    expected = whole(batch)
    with monkeypatch.context() as patched:
        stop_after(patched, answers)
        with pytest.raises(Stopped):
            ask(batch=batch, tokens=SHORT)
    partial = tmp_path / "answers.jsonl.0.partial"
    assert not (tmp_path / "answers.jsonl").exists()
    assert len(partial.read_bytes().splitlines()) == answers
    with partial.open("ab") as file:
        file.write(torn)
    answered = []
    original = module.answer_line
    monkeypatch.setattr(
        module, "answer_line", lambda one, *rest: answered.append(one) or original(one, *rest)
    )
    assert ask(batch=batch, tokens=SHORT) == expected
    assert len(answered) == QUESTIONS - answers
    assert not partial.exists()


def test_what_other_ranks_left_counts(ask, whole, monkeypatch, tmp_path):
    """A run may go on with fewer processes than it had."""
    expected = whole(4)
    with monkeypatch.context() as patched:
        stop_after(patched, 5)
        with pytest.raises(Stopped):
            ask(tokens=SHORT)
    (tmp_path / "answers.jsonl.0.partial").rename(tmp_path / "answers.jsonl.3.partial")
    with (tmp_path / "answers.jsonl.3.partial").open("ab") as file:
        file.write(b'{"position": 9, "li')
    stop_after(monkeypatch, QUESTIONS - 5)
    assert ask(tokens=SHORT) == expected
    assert not list(tmp_path.glob("*.partial"))


def test_lines_of_other_questions_are_refused(ask, questions, tmp_path):
    part = tmp_path / "answers.jsonl.0.partial"
    line = {"question_id": "q4", "prompt": questions[4].prompt, "text": "a"}
    part.write_text(json.dumps({"position": 5, "line": line}) + "\n")
    with pytest.raises(
        GenerationError, match=r"0\.partial: line 1 .*'q4', which is not question 6"
    ):
        ask()
    part.write_text((json.dumps({"position": 4, "line": line}) + "\n") * 2)
    with pytest.raises(GenerationError, match=r"line 2 answers question_id 'q4' a second time"):
        ask()
    part.write_text(json.dumps({"position": 40, "line": line}) + "\n")
    with pytest.raises(GenerationError, match="'q4', which is not question 41"):
        ask()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_question_that_cannot_be_answered_is_named_and_nothing_is_lost(
    ask, questions, tmp_path, batch
):
    missing = tmp_path / "gone.png"
    asked = [*questions]
    asked[9] = dataclasses.replace(asked[9], image=missing)
    for workers in (0, 2):
        with pytest.raises(GenerationError, match=r"test: question 10 \(question_id 27\).*gone"):
            ask(asked=asked, batch=batch, workers=workers)
    kept = (tmp_path / "answers.jsonl.0.partial").read_text().splitlines()
    assert 1 <= len(kept) < QUESTIONS
    assert all(json.loads(line)["line"]["text"] for line in kept)
    assert not (tmp_path / "answers.jsonl").exists()
    questions[9].image.rename(missing)  # mended
    try:
        assert len(ask(asked=asked, batch=batch)) == QUESTIONS
    finally:
        missing.rename(questions[9].image)


@pytest.mark.parametrize(("batch", "others"), [(1, ""), (3, ", or one of the 2 in its batch,")])
def test_a_forward_that_fails_names_its_questions(ask, parts, monkeypatch, others, batch):
    forward, left = parts.model.lm_head.forward, 9

    def fails(hidden: torch.Tensor) -> torch.Tensor:
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("out of memory")
        return forward(hidden)

    monkeypatch.setattr(parts.model.lm_head, "forward", fails)
    named = rf"test: question \d+ \(question_id .*\){others} cannot be answered: out of memory"
    with pytest.raises(GenerationError, match=named):
        ask(batch=batch)


@pytest.mark.parametrize("batch", [1, 3])
def test_logits_that_are_not_finite_stop_the_run_with_the_question_named(
    ask, questions, parts, monkeypatch, tmp_path, batch
):
    """An argmax over NaN would be a token like any other."""
    head, spoilt = parts.model.lm_head.forward, 17

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        nonlocal spoilt
        logits = head(hidden)
        spoilt -= len(hidden)
        if spoilt < 0:
            logits[-1, 5] = torch.nan
        return logits

    monkeypatch.setattr(parts.model.lm_head, "forward", forward)
    with pytest.raises(GenerationError, match=r"question \d+ \(question_id .*new token \d are not"):
        ask(batch=batch)
    kept = (tmp_path / "answers.jsonl.0.partial").read_text().splitlines()
    assert all(json.loads(line)["line"]["text"] for line in kept)


def test_answers_may_hold_any_letter_and_line_ends_of_any_kind(ask, monkeypatch, tmp_path):
    """U+2028 and its like end a line for `splitlines`, and no other reader of JSON lines."""
    said = "é 数\u2028a\x85b\x0cc\r\nd"
    original = module.answer_line
    monkeypatch.setattr(module, "answer_line", lambda one, text, name: original(one, said, name))
    assert {line["text"] for line in ask()} == {said}
    written = (tmp_path / "answers.jsonl").read_bytes()
    assert written.count("é 数".encode()) == written.count(b"\n") == QUESTIONS


def test_a_file_that_was_not_finished_is_not_there(ask, monkeypatch, tmp_path):
    """Written in one go: the stage takes an answers file that exists for a whole one."""
    original = Path.write_text

    def dies(self: Path, text: str, *rest: Any) -> int:
        original(self, text[: len(text) // 2], *rest)
        raise Stopped

    monkeypatch.setattr(Path, "write_text", dies)
    with pytest.raises(Stopped):
        ask()
    assert not (tmp_path / "answers.jsonl").exists()


@pytest.mark.parametrize("count", [2, 3, 7, 40])
def test_the_shuffled_control_moves_every_image(count):
    members = [number for number in range(count + 5) if number % 5]
    for seed in range(20):
        order = derangement(members, count + 5, np.random.default_rng(seed))
        assert sorted(order) == list(range(count + 5))
        for number in range(count + 5):
            assert (order[number] != number) == (number in members)
            assert order[number] in members or number not in members


@pytest.mark.parametrize("members", [[], [3]])
def test_the_shuffled_control_needs_two_images(members):
    with pytest.raises(ValueError, match=f"shuffled: {len(members)} questions with an image"):
        derangement(members, 5, np.random.default_rng(0))


def test_the_shuffled_control_depends_on_its_seed():
    orders = {
        tuple(derangement([*range(9)], 9, np.random.default_rng(seed)).tolist())
        for seed in range(10)
    }
    assert len(orders) > 5


def test_a_question_is_shown_the_image_it_is_given(ask, questions):
    members = [number for number in range(QUESTIONS) if number != 6]
    order = derangement(members, QUESTIONS, np.random.default_rng(1))
    shuffled = ask("shuffled.jsonl", image_order=order)
    moved = [
        dataclasses.replace(one, image=questions[int(order[number])].image)
        for number, one in enumerate(questions)
    ]
    assert shuffled == ask("moved.jsonl", asked=moved)
    assert shuffled != ask("plain.jsonl")


# Score, the stage around it.


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Asks for the shape; the score is the share of answers with a letter a."""

    name: ClassVar[str] = "shapes"
    metric: ClassVar[str] = "accuracy"

    folder: str
    split: str = "toy"
    max_new_tokens: int = 4

    def asked(self, store: Store) -> list[Question]:
        return [
            Question(number, "Which shape?", Path(self.folder) / f"{number}.png")
            for number in range(5)
        ]

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        assert [line["question_id"] for line in answers] == list(range(5))
        hits = {line["question_id"]: "a" in line["text"] for line in answers}
        right = sum(hits.values())
        return Scored(20.0 * right, 5, {"right": right}, Outcomes.mean(hits))


@pytest.fixture
def shapes(tmp_path: Path) -> Shapes:
    for number in range(5):
        draw(number).save(tmp_path / f"{number}.png")
    return Shapes(str(tmp_path))


FLOAT32 = Generation(batch=2, precision="float32")


def test_a_score_says_what_was_scored_and_for_whom(toy, shapes):
    target = toy.target()
    score = Score(shapes, target, FLOAT32)
    folder = toy.store.get(score)
    assert {path.name for path in folder.iterdir()} == {
        *(
            "answers.jsonl",
            "generation.json",
            "outcomes.npz",
            "score.json",
            "run.json",
            "meta.json",
        ),
    }
    scored = json.loads((folder / "score.json").read_text())
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    right = sum("a" in line["text"] for line in lines)
    assert scored == {
        "benchmark": "shapes", "split": "toy", "metric": "accuracy", "score": 20.0 * right,
        "num": 5, "detail": {"right": right},
    }  # fmt: skip
    kept = Kept.read(folder / "outcomes.npz")
    assert kept.gained[:, 0].tolist() == ["a" in line["text"] for line in lines]
    assert {line["model_id"] for line in lines} == {f"pretrained-{key(target)}"}
    run = json.loads((folder / "run.json").read_text())
    assert (run["selector"], run["role"], run["control"]) == ("random", "subset", "none")
    assert (run["budget"], run["rows"], run["seed"]) == (23, 23, 0)
    assert run["protocol"] == "greedy, float32, batch 2"


def test_a_score_of_a_target_on_all_rows_is_a_reference(toy, shapes):
    part, whole = toy.target(), toy.target(toy.subset(rows=None, fraction=1.0))
    runs = [
        json.loads((toy.store.get(Score(shapes, it, FLOAT32)) / "run.json").read_text())
        for it in (part, whole)
    ]
    assert [run["role"] for run in runs] == ["subset", "reference"]
    assert runs[0]["reference_group"] == runs[1]["reference_group"]
    assert runs[0]["target"] != runs[1]["target"]


def test_controls_are_shuffled_or_none(toy, shapes):
    shuffled = dataclasses.replace(FLOAT32, control="shuffled")
    folder = toy.store.get(Score(shapes, toy.target(), shuffled))
    assert json.loads((folder / "run.json").read_text())["control"] == "shuffled"
    with pytest.raises(ValueError, match=r"generation.control='blind': expected none or shuffled"):
        toy.store.get(Score(shapes, toy.target(), dataclasses.replace(FLOAT32, control="blind")))


def test_answers_of_any_letters_are_scored(toy, shapes, monkeypatch):
    original = module.answer_line
    monkeypatch.setattr(
        module, "answer_line", lambda one, text, name: original(one, "a\u2028", name)
    )
    folder = toy.store.get(Score(shapes, toy.target(), dataclasses.replace(FLOAT32, seed=4)))
    assert json.loads((folder / "score.json").read_text())["score"] == 100


def test_answers_that_exist_are_scored_without_a_model(toy, shapes, monkeypatch):
    """A rule that fails after hours of answers can be mended without asking again."""
    score = Score(shapes, toy.target(), dataclasses.replace(FLOAT32, seed=3))
    with monkeypatch.context() as patched:
        patched.setattr(Shapes, "score", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            toy.store.get(score)
    monkeypatch.setattr(module, "generate_answers", lambda *given: pytest.fail("asked again"))
    assert json.loads((toy.store.get(score) / "score.json").read_text())["num"] == 5
