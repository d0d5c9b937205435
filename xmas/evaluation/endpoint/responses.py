"""What an endpoint sends back: a completion, a list of models, or a reason for another try."""

import dataclasses
import email.utils
import json
import re
import time
from typing import Any

_PLACEHOLDER = 8  # characters; a shorter key, such as EMPTY for a local server, is no secret
_SHOWN = 300  # characters of a server's message, in an error
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_HALF = re.compile("[\ud800-\udfff]")  # halves of characters, which JSON allows and UTF-8 does not


class EndpointError(OSError):
    """An endpoint cannot be asked, or does not reply; the message never contains the key."""


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
    """A request failed and would fail again; `status` is HTTP's."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class AbortedError(Exception):
    """A request was not sent, because another one failed."""


@dataclasses.dataclass(frozen=True)
class Reply:
    """The text of a chat completion, unchanged."""

    content: str  # "" where the server sent none
    served: str | None  # the model that the server says has replied
    finish_reason: str | None


def _without(text: str, key: str | None) -> str:
    return text if key is None or len(key) < _PLACEHOLDER else text.replace(key, "[key]")


def shown(text: str, key: str | None) -> str:
    """The beginning of a server's message; the key is removed in JSON's escapes too."""
    plain = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), text)
    return _without(text if _without(plain, key) == plain else plain, key)[:_SHOWN]


def completion_of(text: str, key: str | None) -> Reply:
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
        raise TransientError(f"no chat completion: {shown(text, key)}") from None
    if content is not None and not isinstance(content, str):
        raise NoTextError(f"no text in the completion: {shown(text, key)}", _name(served, key))
    return Reply(_clean(content or "", key), _name(served, key), _name(reason, key))


def models_of(text: str, key: str | None) -> list[dict[str, Any]] | None:
    """The models of a list, their fields as text; None of an empty text.

    Raises TransientError: no list, such as an error page of a proxy.
    """
    if not text:
        return None
    try:
        models = json.loads(text)["data"]
        return [
            {str(name): _name(value, key) for name, value in model.items()}
            for model in models
            if isinstance(model["id"], str)
        ]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise TransientError(f"no list of models: {shown(text, key)}") from None


def _name(value: Any, key: str | None) -> str | None:
    """A short field of a completion, None where the server sent something else."""
    return _clean(value, key)[:_SHOWN] if isinstance(value, str) else None


def _clean(text: str, key: str | None) -> str:
    """Text that can be written as UTF-8, without the key, which JSON may have had in escapes."""
    return _without(_HALF.sub("\N{REPLACEMENT CHARACTER}", text), key)


def seconds_of(retry_after: str | None) -> float | None:
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
