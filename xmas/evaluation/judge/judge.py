"""A judge: a language model behind any OpenAI-compatible endpoint, asked many things at once.

Its name is part of every score it gives. The address is not: the same model behind another port or
proxy is the same judge, and who serves another one there names it in `model`. The key stands in no
field; it is read from the environment when a request is made.
"""

import concurrent.futures
import dataclasses
import logging
import os
import re
import urllib.parse
from collections.abc import Hashable, Iterator, Mapping
from threading import Event
from typing import Any, TypeVar

from xmas.evaluation.judge.endpoint import PassingError, RefusedError, Reply, complete
from xmas.store import volatile

log = logging.getLogger(__name__)

Name = TypeVar("Name", bound=Hashable)

_OURS = ("model", "messages", "stream", "n")  # of a request, so not for `options`
_LONGEST = 300.0  # seconds between two tries, whatever the server asks for


class JudgeError(OSError):
    """A judge cannot be asked, or does not reply; the message never holds the key."""


@dataclasses.dataclass(frozen=True)
class Judge:
    """Who judges, and how to get there."""

    model: str | None  # as the endpoint calls it; a dated name, since others change unseen
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # of requests; null: left out
    base_url: str = volatile("http://localhost:8000/v1")
    key_variable: str | None = volatile(None)  # of the environment; None: no key is sent
    at_once: int = volatile(8)  # requests on their way
    tries: int = volatile(6)  # of one request, each further from the last
    timeout: float = volatile(120.0)  # seconds without a byte

    def check(self) -> None:
        """Raise JudgeError if it cannot be asked: no name, no key, or an address that is none."""
        if not self.model:
            raise JudgeError(
                "judge.model is not set: name the judge as its endpoint does; every score that it "
                "gives bears the name"
            )
        if self.at_once < 1 or self.tries < 1:
            raise JudgeError(
                f"judge.at_once={self.at_once}, judge.tries={self.tries}: expected 1 or more"
            )
        if taken := sorted(set(self.options).intersection(_OURS)):
            raise JudgeError(f"judge.options: {', '.join(taken)} cannot be set there")
        self._address()
        self._key()

    def replies(self, requests: Mapping[Name, dict[str, Any]]) -> Iterator[tuple[Name, Reply]]:
        """The reply to every request body, in the order they come.

        Raises JudgeError, naming the request, when one has failed for good: those on their way are
        given first, the others are not sent.
        """
        self.check()
        stop = Event()
        failed: JudgeError | None = None
        with concurrent.futures.ThreadPoolExecutor(self.at_once) as threads:
            asked = {threads.submit(self._ask, body, stop): of for of, body in requests.items()}
            try:
                for done in concurrent.futures.as_completed(asked):
                    error = done.exception()
                    if isinstance(error, JudgeError):
                        failed = failed or JudgeError(f"{asked[done]}: {error}")
                    elif not isinstance(error, _CalledOffError):
                        yield asked[done], done.result()
            finally:
                stop.set()
        if failed is not None:
            raise failed

    def _ask(self, body: dict[str, Any], stop: Event) -> Reply:
        """Raises JudgeError, and sets `stop`: no reply, and another try would be in vain. Raises
        _CalledOffError: `stop` was set.
        """
        address, key = self._address(), self._key()
        whole = {"model": self.model, **body, **self.options}
        whole = {name: held for name, held in whole.items() if held is not None}
        number, wait = 0, 0.0
        while not stop.wait(wait):
            number += 1
            try:
                return complete(address, whole, key=key, timeout=self.timeout)
            except RefusedError as error:
                stop.set()
                raise JudgeError(f"{address}: {error}") from None
            except PassingError as error:
                if number == self.tries:
                    stop.set()
                    said = f"{error}; tried {number} times, run again to go on"
                    raise JudgeError(f"{address}: {said}") from None
                wait = min(error.wait or 2.0 ** (number - 1), _LONGEST)
                log.warning("judge %s: %s; again in %.3g s", self.model, error, wait)
        raise _CalledOffError

    def _address(self) -> str:
        """Where requests go. Raises JudgeError: it is more than an address, or less."""
        parts = urllib.parse.urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise JudgeError("judge.base_url: expected http://HOST/... or https://HOST/...")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise JudgeError(
                "judge.base_url: holds a password, ? or #; addresses are written down, so the key "
                "belongs into an environment variable, which judge.key_variable names"
            )
        return self.base_url.rstrip("/") + "/chat/completions"

    def _key(self) -> str | None:
        """Raises JudgeError: the variable is not set, or what it holds fits into no header."""
        if self.key_variable is None:
            return None
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key_variable):  # not shown: it may be a key
            raise JudgeError(
                "judge.key_variable: expected the name of an environment variable, in capitals"
            )
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise JudgeError(
                f"the environment variable {self.key_variable} is not set: put the endpoint's key "
                "there, name another with judge.key_variable, or set that to null for none"
            )
        if not all("!" <= letter <= "~" and letter not in "\"'\\" for letter in key):
            raise JudgeError(f"{self.key_variable} holds spaces, quotes or letters that no key has")
        return key


class _CalledOffError(Exception):
    """Another request has failed."""
