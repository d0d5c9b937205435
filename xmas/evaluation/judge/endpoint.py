"""One request to an OpenAI-compatible endpoint: a chat completion, or the reason why there is none.

Of the standard library alone. A review is one POST of JSON that takes seconds, so a client package
would bring a dozen others for connections that need not be kept, and would retry and log by rules
of its own; proxies and certificates come from the environment as everywhere.

Servers repeat keys in replies and errors, and both are written down. So the key is struck out of
whatever came, before it is looked at or cut, and no exception of the transport is chained.
"""

import dataclasses
import email.utils
import http.client
import json
import time
import urllib.request
from typing import Any

_PLACEHOLDER = 8  # characters; a shorter key, as EMPTY for a local server, is a word and no secret
_MAY_PASS = {408, 409, 425, 429}  # and 5xx
_SHOWN = 300  # characters of what a server says, in an error


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a model said, as it came."""

    content: str  # "" where the server sent none
    served: str | None  # the model that the server says has replied
    finish_reason: str | None


class PassingError(Exception):
    """A fault that may pass; `wait`: the seconds that the server asks for."""

    def __init__(self, fault: str, wait: float | None = None) -> None:
        super().__init__(fault)
        self.wait = wait


class RefusedError(Exception):
    """A fault that will be the same the next time."""


class _AsItIs(urllib.request.HTTPErrorProcessor):
    """Every response is returned, errors too. So no redirection is followed, either: the key would
    go along, to wherever the server says.
    """

    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


def complete(address: str, body: dict[str, Any], *, key: str | None, timeout: float) -> Reply:
    """The reply to a request body. Raises PassingError or RefusedError; neither holds the key."""
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    try:
        with urllib.request.build_opener(_AsItIs).open(request, timeout=timeout) as response:
            code, wait = response.status, _seconds(response.headers.get("Retry-After"))
            said = _without(response.read().decode(errors="replace"), key)
    except (OSError, http.client.HTTPException) as error:
        fault = _without(f"{type(error).__name__}: {error}", key)[:_SHOWN]
        raise PassingError(fault) from None
    if code == 200:
        return _reply(said)
    if code in _MAY_PASS or code >= 500:
        raise PassingError(f"HTTP {code}: {said[:_SHOWN]}", wait)
    if code in (401, 403):  # what servers say here quotes parts of the key
        raise RefusedError(
            f"HTTP {code}: the key is not accepted"
            if key
            else f"HTTP {code}: it wants a key; judge.key_variable names where to find it"
        )
    if 300 <= code < 400:
        raise RefusedError(f"HTTP {code}: it lives elsewhere, where the key is not carried")
    raise RefusedError(f"HTTP {code}: {said[:_SHOWN]}")


def _without(text: str, key: str | None) -> str:
    return text if key is None or len(key) < _PLACEHOLDER else text.replace(key, "[key]")


def _reply(said: str) -> Reply:
    """Raises PassingError: it is no chat completion; a proxy in between may have spoken."""
    try:
        found = json.loads(said)
        choice = found["choices"][0]
        content = choice["message"]["content"]
        reply = Reply(content or "", found.get("model"), choice.get("finish_reason"))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise PassingError(f"no chat completion: {said[:_SHOWN]}") from None
    if not isinstance(reply.content, str):
        raise PassingError(f"no text in the completion: {said[:_SHOWN]}")
    return reply


def _seconds(retry_after: str | None) -> float | None:
    """What a Retry-After header asks for, in seconds or until a date; None for neither."""
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
