"""Answers of a server: those of local generation, whatever the connection does meanwhile."""

import base64
import dataclasses
import io
import itertools
import json
import logging
import multiprocessing
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_judge import FakeJudge, Fault, completion, prompt_of
from PIL import Image
from test_export import assembled
from toy import HARDWARE, Toy, draw
from transformers_server import TransformersServer

from xmas.cli.config import build
from xmas.data.images.files import open_image
from xmas.evaluation.endpoint.client import Endpoint
from xmas.evaluation.endpoint.responses import EndpointError
from xmas.evaluation.generation.answer_file import GenerationError
from xmas.evaluation.generation.endpoint_generation import EndpointGeneration
from xmas.evaluation.generation.served_answers import ask_endpoint, data_uri
from xmas.evaluation.generation.settings import Generation
from xmas.evaluation.json_files import json_lines
from xmas.evaluation.outcomes import Outcomes
from xmas.evaluation.protocol import Question, Scored
from xmas.evaluation.scores import Score
from xmas.models.chat.template import Template
from xmas.store import Store, key
from xmas.target.export import Export
from xmas.target.target import Target
from xmas.training.fit.recipe import Recipe
from xmas.training.fit.trainables import Lora

QUESTIONS = 13
RECIPE = Recipe(rate=1e-2, projector_rate=1e-2, batch=8, micro_batch=4, precision="32-true")


@dataclasses.dataclass(frozen=True)
class Drawings:
    """Questions about drawings in a folder; the fifth has none, the third's are bytes."""

    name = "drawings"
    metric = "accuracy"

    folder: str
    split: str = "toy"
    max_new_tokens: int = 5

    def asked(self, store: Store) -> list[Question]:
        asked = []
        for number in range(QUESTIONS):
            path = Path(self.folder) / f"{number}.png"
            image = None if number == 5 else path.read_bytes() if number == 3 else path
            prompt = "What is drawn" + " here" * (number % 4) + f"? 数 {number}"
            asked.append(
                Question(number, prompt, image, {"category": number} if number == 2 else {})
            )
        return asked

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        hits = {line["question_id"]: "a" in line["text"] for line in answers}
        outcomes = Outcomes.mean(hits)
        return Scored(outcomes.score(), len(hits), {}, outcomes)


@pytest.fixture(scope="module")
def drawings(tmp_path_factory) -> Drawings:
    folder = tmp_path_factory.mktemp("drawings")
    for number in range(QUESTIONS):
        draw(number).save(folder / f"{number}.png")
    return Drawings(str(folder))


@pytest.fixture(scope="module")
def target(toy: Toy, tmp_path_factory) -> Target:
    """Random weights, which say something else about every picture."""
    start = assembled(tmp_path_factory.mktemp("served"), legacy=False)
    made = Target(
        toy.subset(), start, RECIPE, Lora(4, 8), Template(), untrained=True, hardware=HARDWARE
    )
    toy.store.get(made)
    return made


@pytest.fixture(scope="module")
def export(toy: Toy, target: Target) -> Path:
    return toy.store.get(Export(target, "float32"))


@pytest.fixture(scope="module")
def serving(export: Path) -> TransformersServer:
    return TransformersServer(export)


@pytest.fixture(scope="module")
def local(toy: Toy, target: Target, drawings: Drawings) -> list[dict[str, Any]]:
    """What the model answers in this process."""
    folder = toy.store.get(Score(drawings, target, Generation(precision="float32")))
    lines = json_lines(folder / "answers.jsonl")
    assert len({line["text"] for line in lines}) > QUESTIONS // 2  # or equality would say little
    return lines


def model(folder: Path | str, **changes: str) -> dict[str, Any]:
    """An entry of vLLM's list of models."""
    return {"id": str(folder), "object": "model", "owned_by": "vllm", "root": str(folder)} | changes


def generation(fake: FakeJudge, **changes: Any) -> EndpointGeneration:
    endpoint = Endpoint(fake.url, timeout=60.0)
    return EndpointGeneration(
        **{"precision": "float32", "endpoint": endpoint, "at_once": 3, **changes}
    )


def quickly(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between tries are noted and not waited for."""
    waits: list[float] = []

    class Noting(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.extend([timeout] if timeout else [])
            return self.is_set()

    for module in ("concurrent_requests", "client"):
        monkeypatch.setattr(f"xmas.evaluation.endpoint.{module}.Event", Noting)
    return waits


def folder_of(store: Store, score: Score) -> list[dict[str, Any]]:
    return json_lines(store.get(score) / "answers.jsonl")


def test_a_server_s_answers_are_those_of_local_generation_through_every_fault(
    toy, target, drawings, export, serving, local, monkeypatch
):
    """Dropped connections, 429, 500 and cut replies; the files of the score are the same."""
    waits = quickly(monkeypatch)
    faults = [Fault(0), Fault(429, headers={"Retry-After": "7"}), Fault(500, "oops"),
              Fault(200, completion("cut"), headers={"Content-Length": "9999"})]  # fmt: skip

    def faulty(body, before):
        number = int(prompt_of(body).split()[-1])
        if number % 3 == 0 and before < 1 + number % 2:
            return faults[number % 4]
        return Fault(body=completion(serving(body), served=str(export)))

    with FakeJudge(faulty, [model(export)]) as fake:
        score = Score(drawings, target, generation(fake))
        folder = toy.store.get(score)
    assert json_lines(folder / "answers.jsonl") == local
    assert len(fake.requests) == QUESTIONS + 5 + 2  # 0, 3, 6, 9, 12 once more; 3 and 9 twice
    assert 7.0 in waits
    assert fake.at_once <= 3
    assert {path.name for path in folder.iterdir()} == {
        "answers.jsonl", "generation.json", "outcomes.npz", "score.json", "run.json", "meta.json",
    }  # fmt: skip
    how = json.loads((folder / "generation.json").read_text())
    assert how["protocol"] == "endpoint vllm, float32, temperature 0"
    assert json.loads((folder / "run.json").read_text())["protocol"] == how["protocol"]
    assert (how["found_by"], how["export"]) == ("key", key(Export(target, "float32")))
    assert how["served"] == [str(export)]


def test_a_request_is_greedy_with_the_benchmark_s_prompt_and_the_image_s_own_bytes(
    toy, target, drawings, export
):
    with FakeJudge(lambda *_: "a", [model(export)]) as fake:
        options = {"repetition_penalty": 1.0}
        toy.store.get(Score(drawings, target, generation(fake, seed=4, options=options)))
    bodies = {prompt_of(body): body for body in fake.requests}
    assert len(bodies) == QUESTIONS
    for question in drawings.asked(toy.store):
        content: Any = question.prompt
        if question.image is not None:
            image = question.image
            encoded = image if isinstance(image, bytes) else image.read_bytes()
            url = f"data:image/png;base64,{base64.b64encode(encoded).decode()}"
            picture = {"type": "image_url", "image_url": {"url": url}}
            content = [picture, {"type": "text", "text": question.prompt}]
        assert bodies[question.prompt] == {
            "model": str(export),
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 5,
            "temperature": 0,
            "seed": 4,
            "repetition_penalty": 1.0,
        }


def test_a_shuffled_control_shows_the_images_that_local_generation_shows(
    toy, target, drawings, export, serving
):
    with FakeJudge(serving, [model(export)]) as fake:
        answers = folder_of(
            toy.store, Score(drawings, target, generation(fake, control="shuffled", seed=2))
        )
    local = Generation(precision="float32", control="shuffled", seed=2)
    assert answers == folder_of(toy.store, Score(drawings, target, local))


def test_what_was_answered_is_not_asked_again(toy, target, drawings, export, local, serving):
    first = generation_seed = 11

    def refuses_nine(body, before):
        return Fault(400, "too long") if prompt_of(body).endswith(" 9") else serving(body)

    with FakeJudge(refuses_nine, [model(export)]) as fake:
        score = Score(drawings, target, generation(fake, seed=generation_seed, at_once=1))
        with pytest.raises(
            EndpointError,
            match=r"^drawings: question 10 \(question_id 9\): http.*HTTP 400: too long",
        ):
            toy.store.get(score)
    first = {prompt_of(body) for body in fake.requests}
    with FakeJudge(serving, [model(export)]) as fake:
        again = dataclasses.replace(score, generation=generation(fake, seed=generation_seed))
        assert folder_of(toy.store, again) == local
    assert len(first) == 10
    assert {prompt_of(body) for body in fake.requests} & first == {"What is drawn here? 数 9"}


def test_killed_and_resumed_the_answers_are_the_same_and_none_is_asked_twice(tmp_path):
    out = tmp_path / "answers.jsonl"
    part = tmp_path / "answers.jsonl.0.partial"
    questions = [Question(number, f"What? {number}", None) for number in range(11)]
    dead = threading.Event()

    def six_alive(body, before):
        if len(fake.requests) > 6:
            dead.wait(300)
        return Fault(body=completion(f"it is {prompt_of(body)} ", served="m"))

    def ask(label: str) -> dict[str, Any]:
        return ask_endpoint(
            generation(fake, at_once=2), questions, model=label, max_new_tokens=3, out=out,
            model_id="toy", label="test",
        )  # fmt: skip

    with FakeJudge(six_alive) as fake:
        killed = multiprocessing.get_context("fork").Process(target=ask, args=("killed",))
        killed.start()
        while not part.exists() or len(fake.requests) < 6:
            assert killed.is_alive()
            time.sleep(0.001)
        killed.kill()
        killed.join()
        dead.set()
        written = part.read_text().splitlines()
        assert 1 <= len(written) < 11
        with part.open("a") as file:
            file.write('{"position": 7, "li')  # torn in the middle of a line
        about = ask("m")
        again = [body for body in fake.requests if body["model"] == "m"]  # others may still come in
    assert len(again) == 11 - len(written)
    assert [line["text"] for line in json_lines(out)] == [f"it is What? {n}" for n in range(11)]
    assert about == {"served": ["m"], "cut": 0}
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("reason", ["abort", "content_filter"])
def test_a_reply_that_is_no_answer_ends_the_run_and_names_the_question(tmp_path, reason):
    choice = {"message": {"content": "half an"}, "finish_reason": reason}
    body = json.dumps({"model": "m", "choices": [choice]})
    with (
        FakeJudge(lambda *_: Fault(body=body)) as fake,
        pytest.raises(GenerationError, match=rf"test: question 1 \(question_id 'x'\).*{reason}"),
    ):
        ask_endpoint(
            generation(fake), [Question("x", "What?", None)], model="m", max_new_tokens=3,
            out=tmp_path / "answers.jsonl", model_id="toy", label="test",
        )  # fmt: skip


def test_replies_by_another_name_and_cut_answers_are_noted(tmp_path, caplog):
    choice = {"message": {"content": " long "}, "finish_reason": "length"}
    body = json.dumps({"model": "other", "choices": [choice]})
    with FakeJudge(lambda *_: Fault(body=body)) as fake, caplog.at_level(logging.WARNING):
        about = ask_endpoint(
            generation(fake), [Question("x", "What?", None)], model="m", max_new_tokens=3,
            out=tmp_path / "answers.jsonl", model_id="toy", label="test",
        )  # fmt: skip
    assert about == {"served": ["other"], "cut": 1}
    assert "asked for m, the replies say other" in caplog.text


# --- which model is served ---


def served(toy: Toy, target: Target, drawings: Drawings, models, **changes) -> str:
    """The name that is asked for."""
    with FakeJudge(lambda *_: "a", models) as fake:
        seed = next(SEEDS)  # a score of its own each time
        toy.store.get(Score(drawings, target, generation(fake, seed=seed, **changes)))
    (name,) = {body["model"] for body in fake.requests}
    return name


SEEDS = itertools.count(100)


def test_the_model_is_found_by_the_export_s_key(toy, target, drawings, export, tmp_path):
    link = tmp_path / "by-name"
    link.symlink_to(export)
    others = [model("llava-hf/llava-1.5-7b-hf"), model("export/0123456789ab")]
    for own in (model("mine", root=str(export)), model(f"xmas-{export.name}"), model(link)):
        assert served(toy, target, drawings, [*others, own]) == own["id"]
    assert served(toy, target, drawings, [model("mine")], model="mine") == "mine"
    assert served(toy, target, drawings, None, model="mine") == "mine"


@pytest.mark.parametrize(
    ("models", "changes", "message"),
    [
        ([model("llava-hf/llava-1.5-7b-hf")], {},
         r"serves llava-hf/llava-1.5-7b-hf, not the export \w{12} of target \w{12}: serve it "
         r"\(vllm serve .*\), and run again.*generation.model=NAME"),
        ([model("a", root="/b")], {}, r"serves a \(from /b\), not the export"),
        ([], {}, r"serves nothing, not the export"),
        (None, {}, r"/models: there is no such list.*set generation.model"),
        ([model("a")], {"model": "b"}, r"serves a, not generation.model=b; correct the name"),
        ([model("a")], {"model": "a", "name": "sglang"}, r"says that it is vllm.*name=vllm"),
    ],
)  # fmt: skip
def test_a_server_of_another_model_is_found_out(
    toy, target, drawings, export, models, changes, message
):
    with pytest.raises(EndpointError, match=message):
        served(toy, target, drawings, models, **changes)


def test_a_name_given_to_another_export_is_found_out(toy, target, drawings, export):
    half = toy.store.get(Export(target))
    with pytest.raises(
        EndpointError, match=rf"is export {half.name}, and this target's is {export.name}"
    ):
        served(toy, target, drawings, [model("mine", root=str(half))], model="mine")
    with pytest.raises(EndpointError, match=rf"not the export {export.name} of"):
        served(toy, target, drawings, [model(half)])


def test_a_target_that_is_not_trained_is_refused_before_anything_runs(toy, drawings):
    with FakeJudge(lambda *_: "a", []) as fake:
        score = Score(drawings, toy.target(seed=77), generation(fake))
        with pytest.raises(ValueError, match=r"is not trained yet.*goal=export"):
            score.check(toy.store)


# --- images ---


def picture_of(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_every_image_arrives_with_the_pixels_that_local_generation_sees(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (7, 11, 4), dtype=np.uint8)
    picture = Image.fromarray(noise)
    turned = Image.Exif()
    turned[0x0112] = 6
    rgb = picture.convert("RGB")
    rgb.save(tmp_path / "plain.jpg")
    rgb.save(tmp_path / "turned.jpg", exif=turned)
    rgb.save(tmp_path / "plain.bmp")
    rgb.convert("L").save(tmp_path / "grey.png")
    picture.save(tmp_path / "alpha.png")
    picture.quantize(5).save(tmp_path / "palette.gif")
    unchanged = set()
    for path in sorted(tmp_path.iterdir()):
        uri = data_uri(path)
        assert np.array_equal(picture_of(uri).convert("RGB"), open_image(path)), path.name
        assert "exif" not in picture_of(uri).info or path.name == "plain.jpg"
        if base64.b64decode(uri.partition(",")[2]) == path.read_bytes():
            unchanged.add(path.name)
    assert unchanged == {"plain.jpg", "grey.png"}
    assert data_uri(tmp_path / "plain.jpg").startswith("data:image/jpeg;base64,")


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    missing = tmp_path / "missing.png"
    with (
        FakeJudge(lambda *_: "a") as fake,
        pytest.raises(GenerationError, match=r"question 1 \(question_id 1\).*missing.png"),
    ):
        ask_endpoint(
            generation(fake), [Question(1, "What?", missing)], model="m", max_new_tokens=3,
            out=tmp_path / "answers.jsonl", model_id="toy", label="test",
        )  # fmt: skip


# --- settings ---


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("generation.batch=8", r"generation.batch=8 .*at_once"),
        ("generation.graphs=false", "generation.graphs=False with an endpoint"),
        ("generation.workers=2", "generation.workers=2 with an endpoint"),
        ("generation.name=", "expected what serves"),
        ("+generation.options.temperature=1", "temperature cannot be set there"),
        ("generation.precision=half", "expected one of float16"),
    ],
)
def test_settings_that_make_no_sense_are_refused(compose, override, message):
    with pytest.raises(ValueError, match=message):
        build(compose("generation=endpoint", override).generation)


def test_the_configuration_s_endpoint(compose, monkeypatch):
    monkeypatch.setenv("XMAS_ENDPOINT", "http://elsewhere:1/v1")
    cfg = compose("generation=endpoint", "export.dtype=bfloat16")  # with experiment=demo
    built = build(cfg.generation)
    assert built.endpoint.url == "http://elsewhere:1/v1"
    assert built.protocol() == "endpoint vllm, bfloat16, temperature 0"
    moved = dataclasses.replace(built, endpoint=Endpoint("http://there/v1"), at_once=1, model="m")
    score, other = (Score(build(cfg.scores).suite["gqa"], build(cfg.target), each)
                    for each in (built, moved))  # fmt: skip
    assert key(score) == key(other)
    assert key(score) != key(dataclasses.replace(score, generation=Generation()))
    with pytest.raises(EndpointError, match=r"generation\.endpoint\.url: expected http"):
        dataclasses.replace(built, endpoint=Endpoint("localhost")).check()
    with pytest.raises(EndpointError, match=r"generation\.at_once=0"):
        dataclasses.replace(built, at_once=0).check()


def test_benchmarks_of_given_answers_stay_local(compose):
    cfg = compose("generation=endpoint", "suite=heldout")
    scores = build(cfg.scores)
    with pytest.raises(ValueError, match=r"heldout needs the probabilities.*~suite\.heldout"):
        list(scores.inputs()[0].inputs())
