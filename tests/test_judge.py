"""A judge that replies late, wrongly or not at all, and a key that stands nowhere."""

import contextlib
import dataclasses
import json
import logging
import multiprocessing
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest
from fake_judge import FakeJudge, Fault, Say, completion, prompt_of

from xmas.evaluation.benchmarks.llava_wild import grades
from xmas.evaluation.endpoint.responses import EndpointError, seconds_of
from xmas.evaluation.json_files import json_lines
from xmas.evaluation.judge.judge import Judge
from xmas.evaluation.judge.reviews import ReviewRequest, Reviews, reviews_from_file
from xmas.evaluation.protocol import AnswerError
from xmas.store import Store, describe, key

KEY = "sk-secret-0123456789abcdef"
VARIABLE = "XMAS_TEST_JUDGE_KEY"
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)


def judge(fake: FakeJudge | None, **changes) -> Judge:
    url = "http://127.0.0.1:9/v1" if fake is None else fake.url
    given = {"model": "fake", "base_url": url, "key_variable": VARIABLE, "timeout": 120.0}
    return Judge(**{**given, **changes})


def asked(count: int) -> tuple[ReviewRequest, ...]:
    return tuple(ReviewRequest(number, 0, f"prompt {number}") for number in range(count))


def reviews(of: Judge, count: int = 5) -> Reviews:
    return Reviews(of, asked(count), system="be fair", temperature=0.2, max_tokens=7)


def ask(of: Judge) -> None:
    list(of.replies({"prompt 0": {"messages": []}}))


def echo(body: dict, before: int) -> str:
    return f"said to {prompt_of(body)}"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def quickly(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits are noted and not waited for."""
    waits: list[float] = []

    class Noting(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if timeout:
                waits.append(timeout)
            return self.is_set()

    monkeypatch.setattr("xmas.evaluation.endpoint.concurrent_requests.Event", Noting)
    return waits


# --- what is sent and kept ---


def test_raw_reviews_are_kept_in_the_order_asked(tmp_path):
    store = Store(str(tmp_path))

    def late_first(body, before):
        number = int(prompt_of(body).split()[1])
        return Fault(body=completion(f"said\n{number} ü"), delay=0.02 * (5 - number))

    with FakeJudge(late_first) as fake:
        folder = store.get(reviews(judge(fake)))
    kept = lines(folder / "reviews.jsonl")
    assert [line["question_id"] for line in kept] == list(range(5))
    assert [line["content"] for line in kept] == [f"said\n{number} ü" for number in range(5)]
    assert {line["judge"] for line in kept} == {"fake"}
    assert {line["served"] for line in kept} == {"fake-0613"}
    assert lines(folder / "prompts.jsonl")[3] == {"question_id": 3, "prompt": "prompt 3"}
    assert not (folder / "reviews.partial").exists()


def test_a_request_has_the_mode_and_the_key_in_its_header_alone(tmp_path):
    with FakeJudge(echo) as fake:
        of = judge(fake, options={"seed": 3, "max_tokens": None})
        Store(str(tmp_path)).get(reviews(of, 1))
    assert fake.requests == [
        {
            "model": "fake",
            "messages": [
                {"role": "system", "content": "be fair"},
                {"role": "user", "content": "prompt 0"},
            ],
            "temperature": 0.2,
            "seed": 3,
        }
    ]
    assert fake.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_a_judge_without_a_key_sends_none(tmp_path):
    with FakeJudge(echo) as fake:
        stage = dataclasses.replace(reviews(judge(fake, key_variable=None), 1), system=None)
        Store(str(tmp_path)).get(stage)
    assert "Authorization" not in fake.headers[0]
    assert [said["role"] for said in fake.requests[0]["messages"]] == ["user"]


def test_no_more_requests_are_on_their_way_than_allowed(tmp_path):
    three = threading.Barrier(3)

    def together(body, before):
        three.wait(timeout=300)
        return "8 9"

    with FakeJudge(together) as fake:
        Store(str(tmp_path)).get(reviews(judge(fake, at_once=3), 18))
    assert fake.at_once == 3
    assert len(fake.requests) == 18


def test_the_model_and_all_that_is_sent_make_the_identity_but_not_the_way_there():
    one = reviews(judge(None))
    assert key(one) == key(
        reviews(Judge("fake", base_url="https://elsewhere/v1", at_once=1, tries=2, timeout=1.0))
    )
    others = [
        reviews(judge(None, model="other")),
        reviews(judge(None, options={"seed": 1})),
        reviews(judge(None), 4),
        dataclasses.replace(one, asked=(*asked(4), ReviewRequest(4, 0, "another answer"))),
        dataclasses.replace(one, system=None),
        dataclasses.replace(one, temperature=0.0),
        dataclasses.replace(one, max_tokens=8),
        dataclasses.replace(one, attempt=1),
    ]
    assert len({key(each) for each in [one, *others]}) == 1 + len(others)
    assert "127.0.0.1" not in json.dumps(describe(one))


# --- faults that pass, and that do not ---


@pytest.mark.parametrize(
    "fault",
    [
        Fault(429, "slow down"),
        Fault(500, "oops"),
        Fault(503, "<html>maintenance</html>"),
        Fault(408),
        Fault(200, "<html>a proxy's page</html>"),
        Fault(200, "[]"),
        Fault(200, '{"choices": []}'),
        Fault(200, '{"choices": [{"message": {"content": 7}}]}'),
        Fault(200, '{"choices": [{"mess'),
        Fault(200, completion("cut"), headers={"Content-Length": "9999"}),
        Fault(200, completion("late"), delay=30.0),
    ],
    ids=lambda fault: f"{fault.status} {fault.body[:20]}",
)
def test_what_may_pass_is_tried_again(tmp_path, monkeypatch, caplog, fault: Fault):
    waits = quickly(monkeypatch)

    def twice_wrong(body, before):
        return fault if before < 2 else "8 9"

    for timeout in (0.1, 1.5, 15.0) if fault.delay else (120.0,):
        waits.clear()
        caplog.clear()
        with FakeJudge(twice_wrong) as fake, caplog.at_level(logging.WARNING):
            of = judge(fake, timeout=timeout)
            folder = Store(str(tmp_path / str(timeout))).get(reviews(of, 1))
        assert lines(folder / "reviews.jsonl")[0]["content"] == "8 9"
        if len(fake.requests) == 3:  # or a busy machine was too late for the third too
            break
    assert len(fake.requests) == 3
    assert waits == [1.0, 2.0]
    assert caplog.text.count("again in") == 2


def test_a_connection_that_breaks_is_tried_again_until_the_tries_are_spent(monkeypatch):
    waits = quickly(monkeypatch)
    with pytest.raises(
        EndpointError, match=r"prompt.*Connection refused.*tried 4 times, run again to resume"
    ):
        list(judge(None, tries=4).replies({"prompt 0": {"messages": []}}))
    assert waits == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(("asks_for", "waits"), [("7", 7.0), ("3600", 300.0), ("soon", 1.0)])
def test_a_server_says_how_long_to_wait(tmp_path, monkeypatch, asks_for, waits):
    noted = quickly(monkeypatch)

    def once(body, before):
        return Fault(429, headers={"Retry-After": asks_for}) if before == 0 else "8 9"

    with FakeJudge(once) as fake:
        Store(str(tmp_path)).get(reviews(judge(fake), 1))
    assert noted == [waits]


def test_a_date_to_wait_for_is_seconds_from_now():
    assert seconds_of("Thu, 01 Jan 1970 00:00:00 GMT") == 0
    far = seconds_of("Fri, 01 Jan 2100 00:00:00 GMT")
    assert far is not None
    assert far == pytest.approx(4102444800 - time.time(), abs=5)
    assert seconds_of(None) is None


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(400, "context_length_exceeded"), "HTTP 400: context_length_exceeded"),
        (Fault(404, "no such model"), "HTTP 404: no such model"),
        (Fault(401, f"bad key {KEY[:12]}***"), "HTTP 401: the key is not accepted$"),
        (
            Fault(307, headers={"Location": "http://127.0.0.1:9/"}),
            "307: redirects are not followed, because the key would leak; set judge.base_url",
        ),
    ],
)
def test_what_cannot_pass_ends_at_once_and_names_the_question(tmp_path, fault, message):
    with (
        FakeJudge(lambda body, before: fault) as fake,
        pytest.raises(EndpointError, match=f"^question 0, run 0: http://127.*{message}"),
    ):
        Store(str(tmp_path)).get(reviews(judge(fake, at_once=1)))
    assert len(fake.requests) == 1


def test_an_empty_reply_is_a_review(tmp_path):
    with FakeJudge(lambda body, before: Fault(body=completion(None))) as fake:
        folder = Store(str(tmp_path)).get(reviews(judge(fake), 1))
    assert lines(folder / "reviews.jsonl")[0]["content"] == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "judge.model is not set"),
        ({"at_once": 0}, "expected 1 or more"),
        ({"options": {"model": "other"}}, "judge.options: model cannot be set there"),
        ({"base_url": "localhost:8000"}, "expected http"),
        ({"base_url": "https://me:hidden@host/v1"}, "contains a password"),
        ({"base_url": "https://host/v1?api-key=hidden"}, "contains a password"),
        ({"key_variable": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE is not set"),
        ({"key_variable": "sk-hidden"}, "expected the name of an environment variable"),
    ],
)
def test_a_judge_that_cannot_be_asked_says_why(changes, message):
    with pytest.raises(EndpointError, match=message) as caught:
        judge(None, **changes).check()
    assert "hidden" not in str(caught.value)


# --- hostile ---


class Raw:
    """A server that answers every request with the bytes that `stream` yields, as long as it can;
    `sent` counts them.
    """

    def __init__(self, stream: Callable[[], Iterator[bytes]]) -> None:
        self.stream, self.sent = stream, 0
        self.server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.getsockname()[1]}/v1"

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(1 << 16)
                for part in self.stream():
                    connection.sendall(part)
                    self.sent += len(part)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.server.close()


def dripping(start: bytes, drop: bytes) -> Callable[[], Iterator[bytes]]:
    def stream() -> Iterator[bytes]:
        yield start
        while True:
            time.sleep(0.01)
            yield drop

    return stream


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        (OK + b"\r\n", b" "),
        (OK + b"Content-Length: 999999\r\n\r\n", b" "),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
        (OK + b"X-", b"a"),
        (b"", b"H"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["body", "length", "chunks", "chunk size", "header", "status", "continue"],
)
def test_an_endless_drip_ends_when_the_whole_reply_is_late(start, drop):
    begun = time.monotonic()
    late = r"no whole reply within 0\.05 s \(judge\.total_timeout\); tried"
    with Raw(dripping(start, drop)) as server, pytest.raises(EndpointError, match=late):
        ask(judge(None, base_url=server.url, tries=1, total_timeout=0.05))
    assert 0.04 < time.monotonic() - begun < 30


def test_a_reply_without_end_is_not_read_into_memory():
    def stream() -> Iterator[bytes]:
        yield OK + b"Content-Length: 3000000000\r\n\r\n"
        while True:
            yield bytes(1 << 20)

    with (
        Raw(stream) as server,
        pytest.raises(EndpointError, match=r"a reply of more than 4 MiB; tried 1 times, run again"),
    ):
        ask(judge(None, base_url=server.url, tries=1))
    assert server.sent < 64 << 20  # what buffers of the connection took


def of_choice(**fields) -> Fault:
    message = {"message": {"role": "assistant", **fields}, "finish_reason": "stop"}
    return Fault(body=json.dumps({"model": "fake-0613", "choices": [message]}))


@pytest.mark.parametrize(
    "content", [7, 1.5, True, False, [], ["8 9"], [{"type": "text", "text": "8 9"}], {"a": "8 9"}]
)
def test_a_content_that_is_no_text_becomes_an_invalid_review(tmp_path, monkeypatch, content):
    """And not a number, nor the end of the other reviews."""
    quickly(monkeypatch)

    def odd(body, before):
        return of_choice(content=content) if prompt_of(body) == "prompt 1" else "8 9"

    with FakeJudge(odd) as fake:
        kept = lines(Store(str(tmp_path)).get(reviews(judge(fake, tries=2), 3)) / "reviews.jsonl")
    assert [line["content"] for line in kept] == ["8 9", "", "8 9"]
    assert kept[1]["finish_reason"].startswith("no text in the completion: ")
    assert [prompt_of(body) for body in fake.requests].count("prompt 1") == 2
    assert grades(kept[1]["content"]) is None


@pytest.mark.parametrize(
    "body",
    [
        '{"model": {"a": []}, "choices": [{"message": {"content": "8 9"}, "finish_reason": [7]}]}',
        '{"model": 7, "choices": [{"message": {"content": "8 9"}, "finish_reason": {}}]}',
        '{"choices": [{"message": {"content": "8 9"}, "finish_reason": null}]}',
    ],
)
def test_odd_types_next_to_the_text_are_left_out(tmp_path, body):
    with FakeJudge(lambda *_: Fault(body=body)) as fake:
        (line,) = lines(Store(str(tmp_path)).get(reviews(judge(fake), 1)) / "reviews.jsonl")
    assert (line["content"], line["served"], line["finish_reason"]) == ("8 9", None, None)


@pytest.mark.parametrize("body", ["[" * 100_000, '{"choices": ' * 50_000, "9" * 10_000, "nul"])
def test_json_that_cannot_be_parsed_is_no_completion(tmp_path, monkeypatch, body):
    quickly(monkeypatch)
    with (
        FakeJudge(lambda *_: Fault(body=body)) as fake,
        pytest.raises(EndpointError, match="no chat"),
    ):
        Store(str(tmp_path)).get(reviews(judge(fake, tries=2), 1))


def test_half_a_character_is_replaced_and_the_rest_is_read(tmp_path):
    with FakeJudge(lambda *_: of_choice(content="8 9\nfine \ud83d!\x00\u2028")) as fake:
        folder = Store(str(tmp_path)).get(reviews(judge(fake), 1))
    (line,) = json_lines(folder / "reviews.jsonl")
    assert line["content"] == "8 9\nfine \N{REPLACEMENT CHARACTER}!\x00\u2028"
    assert grades(line["content"]) == (8.0, 9.0)


@pytest.mark.parametrize("date", ["Mon, 01 Jan 0001 00:00:00 -0000", "99999999999", "nan", "-1"])
def test_an_odd_time_to_wait_is_bounded(date):
    assert (seconds_of(date) or 0.0) >= 0.0


@pytest.mark.parametrize(
    ("field", "value"),
    [("question_id", [1]), ("question_id", None), ("question_id", True), ("content", 7),
     ("run", "0"), ("run", True), ("attempt", 1.5), ("attempt", {}), ("served", ["a"])],
)  # fmt: skip
def test_an_odd_type_in_a_review_file_is_named(tmp_path, field, value):
    path = tmp_path / "reviews.jsonl"
    good = {"question_id": 1, "content": "8 9"}
    path.write_text(json.dumps(good) + "\n" + json.dumps(good | {field: value}))
    with pytest.raises(AnswerError, match=rf"review 2: `{field}` is .*, expected "):
        reviews_from_file(path, {1: "prompt"}, judge="fake", runs=2, answer_ids={})


# --- interrupted ---


def test_after_a_failure_only_what_is_missing_is_asked(tmp_path, monkeypatch):
    quickly(monkeypatch)
    store = Store(str(tmp_path))

    def third_fails(body, before):
        return Fault(500, "down") if prompt_of(body) == "prompt 2" else echo(body, before)

    with FakeJudge(third_fails) as fake, pytest.raises(EndpointError, match="question 2, run 0"):
        store.get(reviews(judge(fake, at_once=1, tries=2)))
    assert [prompt_of(body) for body in fake.requests] == [
        "prompt 0", "prompt 1", "prompt 2", "prompt 2"
    ]  # fmt: skip
    with FakeJudge(echo) as fake:
        folder = store.get(reviews(judge(fake, at_once=1)))
    assert [prompt_of(body) for body in fake.requests] == ["prompt 2", "prompt 3", "prompt 4"]
    assert [line["content"] for line in lines(folder / "reviews.jsonl")] == [
        f"said to prompt {number}" for number in range(5)
    ]


def test_replies_on_their_way_are_kept_when_another_fails(tmp_path):
    sent = threading.Barrier(3)

    def first_fails(body, before):
        if prompt_of(body) in ("prompt 0", "prompt 1", "prompt 2"):
            sent.wait(timeout=300)  # before any of them is replied to
        if prompt_of(body) == "prompt 0":
            return Fault(400, "no")
        return Fault(body=completion("8 9"), delay=0.1)

    store = Store(str(tmp_path))
    with FakeJudge(first_fails) as fake, pytest.raises(EndpointError, match="question 0"):
        store.get(reviews(judge(fake, at_once=3), 19))
    (partial,) = tmp_path.rglob("reviews.partial")
    assert 2 <= len(lines(partial)) < 18
    assert len(fake.requests) == len(lines(partial)) + 1


def start(root: Path, of: Judge) -> multiprocessing.Process:
    process = FORK.Process(target=Store(str(root)).get, args=(reviews(of, 11),), daemon=True)
    process.start()
    return process


def test_killed_and_resumed_the_file_is_the_same_and_nothing_is_asked_twice(tmp_path):
    dead = threading.Event()

    def six_alive(body, before):
        if len(fake.requests) > 6:
            dead.wait(300)
        return echo(body, before)

    with FakeJudge(six_alive) as fake:
        killed = start(tmp_path / "killed", judge(fake, key_variable=None, at_once=2))
        while not any(tmp_path.rglob("reviews.partial")) or len(fake.requests) < 5:
            assert killed.is_alive()
            time.sleep(0.001)
        killed.kill()
        killed.join()
        dead.set()
        (partial,) = tmp_path.rglob("reviews.partial")
        written = lines(partial)
        assert 1 <= len(written) < 11
        with partial.open("a") as file:
            file.write('{"question_id": 7, "ru')  # torn in the middle of a line
        resumed = start(tmp_path / "killed", judge(fake, at_once=2))
        resumed.join()
        assert resumed.exitcode == 0
        again = [  # requests of the killed one may still come in
            prompt_of(body)
            for body, headers in zip(fake.requests, fake.headers, strict=True)
            if "Authorization" in headers
        ]
        Store(str(tmp_path / "whole")).get(reviews(judge(fake), 11))
    assert len(again) == 11 - len(written)
    assert not {f"prompt {line['question_id']}" for line in written} & set(again)
    one, other = tmp_path.rglob("reviews.jsonl")
    assert one.read_bytes() == other.read_bytes()
    assert len(lines(one)) == 11


# --- the key ---


def leaky(status: int) -> Say:
    """A server that repeats the key wherever it can."""

    def say(body, before):
        echoed = {"X-Key": KEY}
        if status == 200:
            text = completion(f"8 9\nyour key is {KEY}", served=f"model of {KEY}")
            return Fault(200, text, headers=echoed)
        long = "x" * 290 + KEY  # cut in the middle, half of it would be left
        return Fault(status, long, headers=echoed, reason=f"key {KEY}")

    return say


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 429, 500, 302])
def test_the_key_is_in_no_log_manifest_review_or_error(
    tmp_path, monkeypatch, caplog, capfd, status
):
    quickly(monkeypatch)
    caplog.set_level(logging.DEBUG)
    with FakeJudge(leaky(status)) as fake:
        stage = reviews(judge(fake, tries=2), 3)
        try:
            Store(str(tmp_path)).get(stage)
        except EndpointError as error:
            assert status != 200
            said = "".join(traceback.format_exception(error)) + repr(error)
        else:
            assert status == 200
            said = ""
    assert all(KEY in header["Authorization"] for header in fake.headers)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"reviews.jsonl" if status == 200 else "error.txt"} <= {path.name for path in written}
    captured = capfd.readouterr()
    everything = [said, caplog.text, captured.out, captured.err, repr(stage), str(describe(stage))]
    everything += [path.read_text(encoding="utf-8") + str(path) for path in written]
    for part in (KEY, KEY[:10], KEY[-10:]):
        assert not [text for text in everything if part in text]


def test_the_key_is_removed_where_json_escapes_it(tmp_path, monkeypatch, caplog):
    quickly(monkeypatch)
    escaped = KEY.replace("-", "\\u002d").replace("s", "\\u0073")
    bodies = [
        f'{{"model": "of {escaped}", "choices": [{{"message": {{"content": "8 9 {escaped}"}}}}]}}',
        f'{{"choices": [{{"message": {{"content": ["{escaped}"]}}}}]}}',
        f'{{"error": "{escaped}"}}',
    ]
    said = []
    for number, body in enumerate(bodies):
        with FakeJudge(lambda *_, body=body: Fault(body=body)) as fake:
            try:
                Store(str(tmp_path / str(number))).get(reviews(judge(fake, tries=2), 1))
            except EndpointError as error:
                said.append(str(error))
    assert len(said) == 1
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    for text in [*said, caplog.text, *written]:
        assert not [part for part in (KEY, escaped, KEY[:10], escaped[:14]) if part in text]


@pytest.mark.parametrize("bad", [f"{KEY} x", f"{KEY}\nX-Other: 1", f'{KEY}"', f"{KEY}ü", "  "])
def test_a_key_that_fits_into_no_header_is_refused_unseen(monkeypatch, bad):
    monkeypatch.setenv(VARIABLE, bad)
    with pytest.raises(EndpointError, match=VARIABLE) as caught:
        list(judge(None).replies({"prompt 0": {"messages": []}}))
    assert KEY[:10] not in "".join(traceback.format_exception(caught.value))


def test_the_line_end_of_a_key_file_does_not_matter(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, f"{KEY}\n")
    with FakeJudge(echo) as fake:
        Store(str(tmp_path)).get(reviews(judge(fake), 1))
    assert fake.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_a_placeholder_is_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "EMPTY")
    with FakeJudge(lambda body, before: "8 9\nThe answer is EMPTY.") as fake:
        folder = Store(str(tmp_path)).get(reviews(judge(fake), 1))
    assert lines(folder / "reviews.jsonl")[0]["content"] == "8 9\nThe answer is EMPTY."
