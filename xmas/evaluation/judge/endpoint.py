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
from threading import Event
from typing import Any

from xmas.evaluation.judge.transport import post

log = logging.getLogger(__name__)

_PLACEHOLDER = 8  # characters; a shorter key, such as EMPTY for a local server, is no secret
_TRANSIENT = {408, 409, 425, 429}  # and 5xx
_SHOWN = 300  # characters of a server's message, in an error
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_HALF = re.compile("[\ud800-\udfff]")  # halves of characters, which JSON allows and UTF-8 does not
_LONGEST = 300.0  # seconds between two tries, also if the server asks for more


class JudgeError(OSError):
    """A judge cannot be asked, or does not reply; the message never contains the key."""


class TransientError(Exception):
    """A request failed and may succeed later; `wait`: the seconds that the server asks for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class NoTextError(TransientError):
    """A chat completion has something else than text, and may have text later."""

    def __init__(self, reason: str, served: str | None) -> None:
        super().__init__(reason)
        self.served = served


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
        total_timeout: seconds of one try, until the whole reply is there.
    """

    base_url: str
    key_variable: str | None
    tries: int
    timeout: float
    total_timeout: float

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
                return complete(
                    address,
                    body,
                    key=key,
                    timeout=self.timeout,
                    total_timeout=self.total_timeout,
                )
            except PermanentError as error:
                stop.set()
                raise JudgeError(f"{address}: {error}") from None
            except TransientError as error:
                if number == self.tries and isinstance(error, NoTextError):
                    log.warning("judge %s: %s; an invalid review", label, error)
                    return Reply("", error.served, str(error))
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


def complete(
    address: str,
    body: dict[str, Any],
    *,
    key: str | None,
    timeout: float,
    total_timeout: float,
) -> Reply:
    """Send one request. Raises TransientError or PermanentError; neither contains the key."""
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    limits = {"timeout": timeout, "total_timeout": total_timeout}
    try:
        response = post(address, json.dumps(body).encode(), headers, **limits)
    except (OSError, http.client.HTTPException) as error:
        raise TransientError(_shown(f"{type(error).__name__}: {error}", key)) from None
    code, wait = response.status, _seconds(response.retry_after)
    text = response.body.decode(errors="replace")
    if code == 200:
        return _reply(text, key)
    if code in _TRANSIENT or code >= 500:
        raise TransientError(f"HTTP {code}: {_shown(text, key)}", wait)
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
    raise PermanentError(f"HTTP {code}: {_shown(text, key)}")


def _without(text: str, key: str | None) -> str:
    return text if key is None or len(key) < _PLACEHOLDER else text.replace(key, "[key]")


def _shown(text: str, key: str | None) -> str:
    """The beginning of a server's message; the key is removed in JSON's escapes too."""
    plain = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), text)
    return _without(text if _without(plain, key) == plain else plain, key)[:_SHOWN]


def _reply(text: str, key: str | None) -> Reply:
    """The reply in a chat completion.

    Raises:
        TransientError: not a chat completion, such as an error page of a proxy.
        NoTextError: a chat completion whose content is no text.
    """
    try:
        completion = json.loads(text)
        choice = completion["choices"][0]
        content = choice["message"]["content"]
        served, reason = completion.get("model"), choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise TransientError(f"no chat completion: {_shown(text, key)}") from None
    if content is not None and not isinstance(content, str):
        raise NoTextError(f"no text in the completion: {_shown(text, key)}", _name(served, key))
    return Reply(_clean(content or "", key), _name(served, key), _name(reason, key))


def _name(value: Any, key: str | None) -> str | None:
    """A short field of a completion, None where the server sent something else."""
    return _clean(value, key)[:_SHOWN] if isinstance(value, str) else None


def _clean(text: str, key: str | None) -> str:
    """Text that can be written as UTF-8, without the key, which JSON may have had in escapes."""
    return _without(_HALF.sub("\N{REPLACEMENT CHARACTER}", text), key)


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
    except (ValueError, OverflowError):
        return None
