"""LLaVA-Bench: four questions whose scores are worked out by hand, and reviews from anywhere."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from fake_judge import FakeJudge, prompt_of

from xmas.evaluation.benchmarks.llava_wild import LlavaWild, grades
from xmas.evaluation.endpoint.responses import EndpointError
from xmas.evaluation.judge.judge import Judge, Judging
from xmas.evaluation.judge.reviews import digest
from xmas.evaluation.protocol import AnswerError
from xmas.evaluation.quick import Quick
from xmas.store import Store, describe

ASKED = [  # question, category, image
    ("What is it?", "conv", "001.jpg"),
    ("Where?", "conv", "002.jpg"),
    ("Describe it.", "detail", "001.jpg"),
    ("Why {so}?", "complex", "002.jpg"),
]
RULE = "Two grades in the first line, from 1 to 10."


def put(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def said(*texts: str) -> list[dict[str, Any]]:
    return [{"question_id": number, "text": text} for number, text in enumerate(texts)]


ANSWERS = said("a cat", "there", "a cat sits", "it is tired")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def bench(tmp_path: Path) -> LlavaWild:
    rules = {
        f"llava_bench_{category}": {"role": "Assistant", "prompt": f"{category}: {RULE}"}
        for category in ("conv", "detail", "complex")
    }
    (tmp_path / "rule.json").write_text(json.dumps(rules))
    return LlavaWild(
        Judging(Judge("fake", at_once=2, tries=1), runs=1, system="be fair", temperature=0.2),
        questions=put(
            tmp_path / "questions.jsonl",
            [
                {"question_id": number, "image": image, "text": text, "category": category}
                for number, (text, category, image) in enumerate(ASKED)
            ],
        ),
        contexts=put(
            tmp_path / "context.jsonl",
            [
                {"id": "002", "image": "002.jpg", "caption": ["A dog.", "It sleeps."]},
                {"id": "001", "image": "001.jpg", "caption": "A cat on a mat."},
            ],
        ),
        annotations=put(tmp_path / "answers_gpt4.jsonl", said("r0", "r1", "r2", "r3")[::-1]),
        rules=str(tmp_path / "rule.json"),
        images=str(tmp_path / "images"),
        wording="test",
        count=None,
    )


def by(fake: FakeJudge, bench: LlavaWild, **changes: Any) -> LlavaWild:
    judge = dataclasses.replace(bench.judging.judge, base_url=fake.url)
    return dataclasses.replace(
        bench, judging=dataclasses.replace(bench.judging, judge=judge, **changes)
    )


def on_file(bench: LlavaWild, lines: list[dict[str, Any]], **changes: Any) -> LlavaWild:
    path = put(Path(bench.questions).with_name("reviews.jsonl"), lines)
    judging = dataclasses.replace(bench.judging, **changes)
    return dataclasses.replace(bench, reviews=path, judging=judging)


def review(question: int, content: str, **more: Any) -> dict[str, Any]:
    return {"question_id": question, "content": content, **more}


GRADED = [review(0, "8 4\nwhy"), review(1, "10 10"), review(2, "9.5, 5"), review(3, "7,7")]


# --- prompts ---


def test_questions_are_those_of_the_file(bench, store):
    assert [one.prompt for one in bench.asked(store)] == [text for text, _, _ in ASKED]
    assert bench.asked(store)[1].image == Path(bench.images) / "002.jpg"
    with pytest.raises(AnswerError, match="4 found, 60 expected"):
        dataclasses.replace(bench, count=60).asked(store)


def test_the_prompt_is_the_released_one_letter_by_letter(bench, store):
    prompts = bench.prompts(ANSWERS[::-1], store)
    assert prompts[0] == (
        "[Context]\nA cat on a mat.\n\n[Question]\nWhat is it?\n\n"
        "[Assistant 1]\nr0\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\na cat\n\n[End of Assistant 2]\n\n"
        "[System]\nconv: Two grades in the first line, from 1 to 10.\n\n"
    )
    assert prompts[3].startswith("[Context]\nA dog.\nIt sleeps.\n\n[Question]\nWhy {so}?\n\n")
    assert "[System]\ncomplex: " in prompts[3]


def test_rules_in_other_words_need_a_name_which_the_score_bears(bench, store):
    with pytest.raises(AnswerError, match=r"rule.json: not the official wording.*wording=NAME"):
        dataclasses.replace(bench, wording="official").prompts(ANSWERS, store)
    assert bench.metric == "relative_score by fake, test rules"
    assert dataclasses.replace(bench, wording="official").metric == "relative_score by fake"


# --- reading ---


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("8 9", (8, 9)),
        ("8 9.5\nAssistant 1 said ...", (8, 9.5)),
        ("8,9", (8, 9)),
        ("8, 9", (8, 9)),
        ("10 0\r\nbecause", (10, 0)),
        ("", None),
        ("\n8 9", None),
        ("8", None),
        ("8 9 10", None),
        ("Scores: 8 9", None),
        ("8/10 9/10", None),
        ("8 nan", None),
        ("-1 -1", None),
        ("8 11", None),
        ("1e1 8", None),
        ("１ ２", None),  # noqa: RUF001  # full-width digits
        ("I cannot grade this.", None),
    ],
)
def test_two_plain_numbers_in_the_first_line_and_nothing_else(text, pair):
    assert grades(text) == pair


# --- scores ---


def test_the_score_is_a_ratio_of_sums(bench, store):
    scored = on_file(bench, GRADED).score(ANSWERS, store)
    assert scored.score == pytest.approx(100 * 26 / 34.5)  # and not the mean of the ratios
    assert scored.num == 4
    assert scored.detail["category"] == {
        "conv": pytest.approx(100 * 14 / 18),
        "detail": pytest.approx(100 * 5 / 9.5),
        "complex": 100,
    }
    assert scored.detail["reference"] == pytest.approx(10 * 34.5 / 4)
    assert scored.detail["model"] == pytest.approx(65)
    assert scored.detail["judge"] == "fake"
    assert scored.detail["runs"] == [scored.score]
    assert scored.detail["std"] == 0


def test_runs_are_averaged_after_their_ratios(bench, store):
    lines = [review(number, "10 5", run=0) for number in range(4)]
    lines += [review(number, "4 4", run=1) for number in range(4)]
    scored = on_file(bench, lines[::-1], runs=2).score(ANSWERS, store)
    assert scored.detail["runs"] == [50, 100]
    assert scored.score == 75  # the ratio of all sums would be 64.3
    assert scored.detail["std"] == 25
    assert scored.detail["category"]["conv"] == 75
    assert scored.detail["reference"] == 70
    assert scored.outcomes is not None
    assert scored.outcomes.keys.tolist() == ["0", "1", "2", "3"]
    assert scored.outcomes.gained.tolist() == [[5, 4]] * 4
    assert scored.outcomes.counted.tolist() == [[10, 4]] * 4
    assert scored.outcomes.pictures.tolist() == [0, 1, 0, 1]  # 001.jpg, 002.jpg, ...


def test_one_review_that_cannot_be_read_leaves_no_score(bench, store):
    """With -1 for both, the release would give 100 * 20 / 24 here."""
    lines = [*GRADED[:2], review(2, "I'd say 9 and 5"), GRADED[3]]
    scored = on_file(bench, lines).score(ANSWERS, store)
    assert scored.score is None
    assert scored.num == 4
    assert scored.detail["invalid"] == "1 of 4 reviews cannot be read"
    assert scored.detail["unread"] == [{"question_id": 2, "run": 0}]
    assert "category" not in scored.detail
    assert scored.outcomes is None


def test_a_judge_that_gives_the_reference_nothing_gives_no_score(bench, store):
    lines = [review(number, "0 5") for number in range(4)]
    with pytest.raises(AnswerError, match="gave all references 0"):
        on_file(bench, lines).score(ANSWERS, store)


# --- the judge ---


def test_the_judge_is_asked_every_question_in_every_run_and_then_never_again(bench, store):
    with FakeJudge(lambda body, before: f"10 {5 + before}") as fake:
        judged = by(fake, bench, runs=3, max_tokens=1024)
        scored = judged.score(ANSWERS, store)
        assert len(fake.requests) == 12
        assert judged.score(ANSWERS, store).detail == scored.detail
        assert len(fake.requests) == 12
        assert judged.score([*ANSWERS[:3], said(*"abcd")[3]], store).score is not None
        assert len(fake.requests) == 24  # of another answer, so all are other reviews
    assert scored.score == pytest.approx(60)
    assert scored.detail["served"] == ["fake-0613"]
    assert {prompt_of(body) for body in fake.requests[:12]} == set(
        bench.prompts(ANSWERS, store).values()
    )
    assert fake.requests[0]["temperature"] == 0.2
    assert fake.requests[0]["max_tokens"] == 1024
    assert fake.requests[0]["messages"][0] == {"role": "system", "content": "be fair"}


def test_only_what_cannot_be_read_is_asked_again_and_all_of_it_is_kept(bench, store):
    def moody(body, before):
        return "no idea" if "[Question]\nWhere?" in prompt_of(body) and before < 2 else "10 5"

    with FakeJudge(moody) as fake:
        once = by(fake, bench).score(ANSWERS, store)
        assert once.score is None
        assert len(fake.requests) == 4
        twice = by(fake, bench, asks=2).score(ANSWERS, store)
        assert twice.detail["invalid"] == "1 of 4 reviews cannot be read"
        assert len(fake.requests) == 5
        thrice = by(fake, bench, asks=3).score(ANSWERS, store)
        assert len(fake.requests) == 6
    assert thrice.score == 50
    assert thrice.detail["asked_again"] == 2
    kept = [
        json.loads(line)
        for path in Path(store.root).rglob("reviews.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert sorted((line["question_id"], line["attempt"]) for line in kept) == [
        (0, 0), (1, 0), (1, 1), (1, 2), (2, 0), (3, 0)
    ]  # fmt: skip


def test_what_the_judge_said_scores_the_same_out_of_its_file(bench, store):
    with FakeJudge(lambda body, before: f"10 {len(prompt_of(body)) % 7}") as fake:
        scored = by(fake, bench, runs=2).score(ANSWERS, store)
    (path,) = Path(store.root).rglob("reviews.jsonl")
    filed = dataclasses.replace(
        bench, reviews=str(path), judging=dataclasses.replace(bench.judging, runs=2)
    )
    again = filed.score(ANSWERS, store)
    assert (again.score, again.detail) == (scored.score, scored.detail)
    with pytest.raises(AnswerError, match="question 2, run 0: of another answer"):
        filed.score([*ANSWERS[:2], {"question_id": 2, "text": "a dog"}, ANSWERS[3]], store)


def test_a_judge_is_needed_before_answers_are_made_unless_reviews_are_there(bench, tmp_path):
    unnamed = dataclasses.replace(bench, judging=Judging(Judge(None)))
    with pytest.raises(EndpointError, match=r"judge\.model is not set"):
        unnamed.check()
    dataclasses.replace(unnamed, reviews=str(tmp_path / "any.jsonl")).check()
    with pytest.raises(ValueError, match=r"judging\.runs=0"):
        dataclasses.replace(bench, judging=Judging(Judge("fake"), runs=0)).check()


def test_the_judge_is_in_the_identity_and_its_address_is_not(bench):
    def named(**changes: Any) -> str:
        judge = dataclasses.replace(bench.judging.judge, **changes)
        judging = dataclasses.replace(bench.judging, judge=judge)
        return json.dumps(describe(dataclasses.replace(bench, judging=judging)))

    assert named() == named(base_url="https://elsewhere/v1", key_variable="ANOTHER", timeout=1.0)
    assert named() != named(model="other")
    assert "sha256" in named()


def test_a_part_is_asked_about_alone_and_stays_invalid_if_it_is(bench, store):
    with FakeJudge(lambda body, before: "10 5") as fake:
        part = Quick(by(fake, bench), size=2)
        drawn = [one.question_id for one in part.asked(store)]
        scored = part.score([ANSWERS[number] for number in drawn], store)
    assert len(fake.requests) == len(drawn) == 2
    assert scored.score == 50
    assert scored.detail["standard_error"] == 0
    assert (part.name, part.metric) == ("llava_wild_quick", "relative_score by fake, test rules")
    with FakeJudge(lambda body, before: "nothing") as fake:
        part = Quick(by(fake, bench, temperature=0.3), size=2)
        scored = part.score([ANSWERS[number] for number in drawn], store)
    assert scored.score is None
    assert scored.detail["invalid"] == "2 of 2 reviews cannot be read"


# --- files of reviews ---


def test_files_of_the_release_are_read_one_behind_the_other(bench, store):
    """Its lines have neither run nor judge, and -1 in `tuple`, which nobody looks at."""
    runs = [
        [
            review(
                number, content, id=number + 1, answer1_id="r", answer2_id="", tuple=[-1, -1],
                category="llava_bench_conv",
            )
            for number in range(4)
        ]
        for content in ("10 5\nfine", "10 7")
    ]  # fmt: skip
    scored = on_file(bench, [*runs[0], *runs[1]], runs=2).score(ANSWERS, store)
    assert scored.detail["runs"] == [50, 70]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (GRADED[:3], "1 of 4 reviews are missing, the first is of question 3, run 0 of 1"),
        ([*GRADED, GRADED[0]], r"question 0, run 1: judging.runs=1"),
        ([*GRADED, review(0, "1 1", run=0)], "question 0, run 0: is in the file twice"),
        ([*GRADED, review(9, "1 1")], "review 5, of question 9, run 0: was not asked"),
        ([review(0, "8 4", judge="other"), *GRADED[1:]], "by other, but judge.model=fake"),
        ([review(0, "8 4", prompt_sha256=digest("x")), *GRADED[1:]], "of another answer"),
        ([review(0, "8 4", answer2_id="B"), *GRADED[1:]], "of answer B, but the answers have A"),
        ([{"question_id": 0}], "review 1 has no `content`"),
        ([{"question_id": 0, "content": [8, 4]}], r"`content` is \[8, 4\], expected a string"),
    ],
)
def test_reviews_that_do_not_fit_are_refused(bench, store, lines, message):
    answers = [{**ANSWERS[0], "answer_id": "A"}, *ANSWERS[1:]]
    with pytest.raises(AnswerError, match=message):
        on_file(bench, lines).score(answers, store)


def test_a_file_of_reviews_by_nobody_is_refused(bench, store):
    with pytest.raises(AnswerError, match=r"whose reviews are these\? Set judge.model"):
        on_file(bench, GRADED, judge=Judge(None)).score(ANSWERS, store)


# --- files that do not fit ---


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (ANSWERS[1:], "1 of 4 questions have no answer, the first is 0"),
        ([*ANSWERS, ANSWERS[0]], "answers 0 a second time"),
        ([*ANSWERS, {"question_id": 9, "text": ""}], "answers 9, which was not asked"),
    ],
)
def test_missing_doubled_and_foreign_answers_are_refused(bench, store, answers, message):
    with pytest.raises(AnswerError, match=f"^llava_wild: .*{message}"):
        on_file(bench, GRADED).score(answers, store)


def test_missing_references_contexts_and_rules_are_named(bench, store, tmp_path):
    references = put(tmp_path / "few.jsonl", said("r0", "r1", "r2"))
    with pytest.raises(AnswerError, match=r"few.jsonl: no reference for question 3"):
        dataclasses.replace(bench, annotations=references).prompts(ANSWERS, store)
    contexts = put(tmp_path / "few.jsonl", [{"image": "001.jpg", "caption": "A cat."}])
    with pytest.raises(AnswerError, match=r"few.jsonl: no context for 002.jpg, of question 1"):
        dataclasses.replace(bench, contexts=contexts).prompts(ANSWERS, store)
    Path(bench.rules).write_text('{"llava_bench_conv": {"role": "A", "prompt": ""}}')
    with pytest.raises(AnswerError, match=r"rule\.json has no `llava_bench_detail`"):
        bench.prompts(ANSWERS, store)
    Path(bench.rules).write_text("[")
    with pytest.raises(AnswerError, match=r"rule.json: is not JSON"):
        bench.prompts(ANSWERS, store)
