"""An OpenAI-compatible endpoint on this machine, whose replies a test writes.

`say` gets the request's body and how often this very prompt has come before, and gives a text or a
`Fault`. `models` are what it says it serves; None: it has no such page.
"""

import contextlib
import dataclasses
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

os.environ["no_proxy"] = "127.0.0.1"  # what stands between here and elsewhere stays out


@dataclasses.dataclass(frozen=True)
class Fault:
    """A response that is no completion, or comes late."""

    status: int = 200  # 0: the connection is dropped
    body: str = ""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    delay: float = 0.0  # seconds
    reason: str | None = None  # of the status line


Say = Callable[[dict[str, Any], int], str | Fault]


def completion(content: str | None, served: str = "fake-0613") -> str:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}}
    return json.dumps({"model": served, "choices": [{**choice, "finish_reason": "stop"}]})


def prompt_of(body: dict[str, Any]) -> str:
    """The text of the last message, without its images."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


class FakeJudge:
    """A context manager; `requests` and `headers` of all that came, in order."""

    def __init__(self, say: Say, models: list[dict[str, Any]] | None = None) -> None:
        self.say, self.models = say, models
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.at_once = 0  # the most there ever were
        self._now = 0
        self._came: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *given: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take(self, body: dict[str, Any], headers: dict[str, str]) -> str | Fault:
        with self._lock:
            self.requests.append(body)
            self.headers.append(headers)
            self._now += 1
            self.at_once = max(self.at_once, self._now)
            before = self._came[prompt_of(body)]
            self._came[prompt_of(body)] += 1
        return self.say(body, before)

    def _gone(self) -> None:
        with self._lock:
            self._now -= 1

    def _handler(fake) -> type[BaseHTTPRequestHandler]:  # noqa: N805  # `self` is the handler's
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/chat/completions"
                size = int(self.headers["Content-Length"])
                said = fake._take(json.loads(self.rfile.read(size)), dict(self.headers))
                if not isinstance(said, Fault):
                    said = Fault(body=completion(said))
                time.sleep(said.delay)
                fake._gone()
                if said.status == 0:
                    self.close_connection = True
                    return
                self._send(said)

            def do_GET(self) -> None:
                assert self.path == "/v1/models"
                models = json.dumps({"object": "list", "data": fake.models})
                self._send(Fault(404) if fake.models is None else Fault(body=models))

            def _send(self, said: Fault) -> None:
                with contextlib.suppress(ConnectionError):  # who asked did not wait
                    self.send_response(said.status, said.reason)
                    for name, value in said.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(said.body.encode())

            def log_message(self, *given: object) -> None:
                pass

        return Handler
