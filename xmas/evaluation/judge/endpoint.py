"""HTTP requests to an OpenAI-compatible endpoint: one chat completion each, with retries.

Only the standard library is used. A review is one POST of JSON that takes seconds, so a client
package would add a dozen dependencies for connections that need not be kept open, and would retry
and log by its own rules. Proxies and certificates are taken from the environment as usual.

Servers may repeat the API key in replies and errors, and both are written to disk. So the key is
removed from every response before it is parsed, shortened or logged, and exceptions of the
transport are not chained.
"""

import dataclasses
import email.utils
import http.client
import json
import logging
import os
import re
import time
import urllib.parse
import urllib.request
from threading import Event
from typing import Any

log = logging.getLogger(__name__)

_PLACEHOLDER = 8  # characters; a shorter key, such as EMPTY for a local server, is no secret
_TRANSIENT = {408, 409, 425, 429}  # and 5xx
_SHOWN = 300  # characters of a server's message, in an error
_LONGEST = 300.0  # seconds between two tries, also if the server asks for more


class JudgeError(OSError):
    """A judge cannot be asked, or does not reply; the message never contains the key."""


class TransientError(Exception):
    """A request failed and may succeed later; `wait`: the seconds that the server asks for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class PermanentError(Exception):
    """A request failed and would fail again."""


class AbortedError(Exception):
    """A request was not sent, because another one failed."""


@dataclasses.dataclass(frozen=True)
class Reply:
    """The text of a chat completion, unchanged."""

    content: str  # "" where the server sent none
    served: str | None  # the model that the server says has replied
    finish_reason: str | None


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where requests are sent, and how often each is tried.

    Args:
        base_url: up to and including the version, as in `http://localhost:8000/v1`.
        key_variable: the environment variable with the API key; None: no key is sent.
        tries: of one request, with waits of 1, 2, 4, ... seconds between them.
        timeout: seconds without a byte.
    """

    base_url: str
    key_variable: str | None
    tries: int
    timeout: float

    def check(self) -> None:
        """Raise JudgeError if no request can be sent: a malformed address, or no key."""
        self._address()
        self._key()

    def complete(self, body: dict[str, Any], *, label: str, stop: Event) -> Reply:
        """Send a request until it succeeds; `label` names the model in warnings.

        Raises:
            JudgeError: all tries failed, or another one would fail as well; `stop` is set.
            AbortedError: `stop` was set.
        """
        address, key = self._address(), self._key()
        number, wait = 0, 0.0
        while not stop.wait(wait):
            number += 1
            try:
                return complete(address, body, key=key, timeout=self.timeout)
            except PermanentError as error:
                stop.set()
                raise JudgeError(f"{address}: {error}") from None
            except TransientError as error:
                if number == self.tries:
                    stop.set()
                    reason = f"{error}; tried {number} times, run again to resume"
                    raise JudgeError(f"{address}: {reason}") from None
                wait = min(error.wait or 2.0 ** (number - 1), _LONGEST)
                log.warning("judge %s: %s; again in %.3g s", label, error, wait)
        raise AbortedError

    def _address(self) -> str:
        """The URL of chat completions. Raises JudgeError: malformed, or it contains a secret."""
        parts = urllib.parse.urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise JudgeError("judge.base_url: expected http://HOST/... or https://HOST/...")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise JudgeError(
                "judge.base_url: contains a password, ? or #; addresses are written to disk, so "
                "put the key into an environment variable and name it in judge.key_variable"
            )
        return self.base_url.rstrip("/") + "/chat/completions"

    def _key(self) -> str | None:
        """Raises JudgeError: the variable is not set, or its value is not valid in a header."""
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
            raise JudgeError(
                f"{self.key_variable} contains spaces, quotes or letters outside ASCII, which no "
                "API key has; set it to the key alone"
            )
        return key


class _NoRedirects(urllib.request.HTTPErrorProcessor):
    """Returns every response, errors too. Redirects are not followed, since the key would be sent
    to the address that the server names.
    """

    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


def complete(address: str, body: dict[str, Any], *, key: str | None, timeout: float) -> Reply:
    """Send one request. Raises TransientError or PermanentError; neither contains the key."""
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout) as response:
            code, wait = response.status, _seconds(response.headers.get("Retry-After"))
            text = _without(response.read().decode(errors="replace"), key)
    except (OSError, http.client.HTTPException) as error:
        reason = _without(f"{type(error).__name__}: {error}", key)[:_SHOWN]
        raise TransientError(reason) from None
    if code == 200:
        return _reply(text)
    if code in _TRANSIENT or code >= 500:
        raise TransientError(f"HTTP {code}: {text[:_SHOWN]}", wait)
    if code in (401, 403):  # what servers write here quotes parts of the key
        raise PermanentError(
            f"HTTP {code}: the key is not accepted"
            if key
            else f"HTTP {code}: a key is required; judge.key_variable names where to find it"
        )
    if 300 <= code < 400:
        raise PermanentError(
            f"HTTP {code}: redirects are not followed, because the key would leak; set "
            "judge.base_url to the final address"
        )
    raise PermanentError(f"HTTP {code}: {text[:_SHOWN]}")


def _without(text: str, key: str | None) -> str:
    return text if key is None or len(key) < _PLACEHOLDER else text.replace(key, "[key]")


def _reply(text: str) -> Reply:
    """Raises TransientError: not a chat completion, such as an error page of a proxy."""
    try:
        completion = json.loads(text)
        choice = completion["choices"][0]
        content = choice["message"]["content"]
        reply = Reply(content or "", completion.get("model"), choice.get("finish_reason"))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise TransientError(f"no chat completion: {text[:_SHOWN]}") from None
    if not isinstance(reply.content, str):
        raise TransientError(f"no text in the completion: {text[:_SHOWN]}")
    return reply


def _seconds(retry_after: str | None) -> float | None:
    """The wait of a Retry-After header, given in seconds or as a date; None for neither."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
