"""HTTP requests to an OpenAI-compatible endpoint, with retries: chat completions, and its models.

Only the standard library is used. A completion is one POST of JSON that takes a second, so a client
package would add a dozen dependencies for connections that need not be kept open, and would retry
and log by its own rules. Proxies and certificates are taken from the environment as usual.

Servers may repeat the API key in replies and errors, and both are written to disk. So the key is
removed from every response before it is parsed, shortened or logged, and exceptions of the
transport are not chained.
"""

import dataclasses
import http.client
import json
import logging
import os
import re
import urllib.parse
from collections.abc import Callable
from threading import Event
from typing import Any, TypeVar

from xmas.evaluation.endpoint.responses import (
    AbortedError,
    EndpointError,
    NoTextError,
    PermanentError,
    Reply,
    TransientError,
    completion_of,
    models_of,
    seconds_of,
    shown,
)
from xmas.evaluation.endpoint.transport import LateError, send

log = logging.getLogger(__name__)

T = TypeVar("T")

_TRANSIENT = {408, 409, 425, 429}  # and 5xx
_ABSENT = {404, 405}  # of a page that a server does not have
_LONGEST = 300.0  # seconds between two tries, also if the server asks for more


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where requests are sent, and how often each is tried.

    Args:
        url: up to and including the version, as in `http://localhost:8000/v1`.
        key_variable: the environment variable with the API key; None: no key is sent.
        tries: of one request, with waits of 1, 2, 4, ... seconds between them.
        timeout: seconds without a byte.
        total_timeout: seconds of one try, until the whole reply is there.
        url_setting: what the configuration calls `url`, for messages; the others are next to it.
    """

    url: str
    key_variable: str | None = None
    tries: int = 6
    timeout: float = 600.0
    total_timeout: float = 1200.0
    url_setting: str = "generation.endpoint.url"

    def check(self) -> None:
        """Raise EndpointError if no request can be sent: a malformed address, or no key."""
        self._base()
        self._key()
        if self.tries < 1:
            raise EndpointError(f"{self._setting('tries')}={self.tries}: expected 1 or more")

    def complete(self, body: dict[str, Any], *, label: str, stop: Event) -> Reply:
        """Send a request until it succeeds; `label` is in warnings.

        Raises:
            EndpointError: all tries failed, or another one would fail as well; `stop` is set.
            NoTextError: what came at the last try is a completion, and no text.
            AbortedError: `stop` was set.
        """
        content = json.dumps(body).encode()
        return self._retried("/chat/completions", content, completion_of, label=label, stop=stop)

    def models(self, *, label: str) -> list[dict[str, Any]] | None:
        """The models that the endpoint says it serves; None: it has no such list.

        Each has an `id`; vLLM and SGLang also say in `root` from which folder they loaded it.

        Raises EndpointError: as `complete`.
        """
        return self._retried("/models", None, models_of, label=label, stop=Event(), optional=True)

    def _retried(
        self,
        path: str,
        content: bytes | None,
        parse: Callable[[str, str | None], T],
        *,
        label: str,
        stop: Event,
        optional: bool = False,
    ) -> T:
        """The parsed response; where `optional`, of a page that is not there, that of ""."""
        address, key = self._base() + path, self._key()
        number, wait = 0, 0.0
        while not stop.wait(wait):
            number += 1
            try:
                return parse(self._sent(address, content, key), key)
            except PermanentError as error:
                if optional and error.status in _ABSENT:
                    return parse("", key)
                stop.set()
                raise EndpointError(f"{address}: {error}") from None
            except TransientError as error:
                if number == self.tries and isinstance(error, NoTextError):
                    raise
                if number == self.tries:
                    stop.set()
                    reason = f"{error}; tried {number} times, run again to resume"
                    raise EndpointError(f"{address}: {reason}") from None
                wait = min(error.wait or 2.0 ** (number - 1), _LONGEST)
                log.warning("%s: %s; again in %.3g s", label, error, wait)
        raise AbortedError

    def _sent(self, address: str, content: bytes | None, key: str | None) -> str:
        """The text of a response. Raises TransientError or PermanentError, without the key."""
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        limits = {"timeout": self.timeout, "total_timeout": self.total_timeout}
        try:
            response = send(address, content, headers, **limits)
        except LateError as error:
            raise TransientError(f"{error} ({self._setting('total_timeout')})") from None
        except (OSError, http.client.HTTPException) as error:
            raise TransientError(shown(f"{type(error).__name__}: {error}", key)) from None
        code, wait = response.status, seconds_of(response.retry_after)
        text = response.body.decode(errors="replace")
        if code == 200:
            return text
        if code in _TRANSIENT or code >= 500:
            raise TransientError(f"HTTP {code}: {shown(text, key)}", wait)
        reason = f"HTTP {code}: {shown(text, key)}"
        if code in (401, 403):  # what servers write here quotes parts of the key
            refused = f"a key is required; {self._setting('key_variable')} names where to find it"
            reason = f"HTTP {code}: {'the key is not accepted' if key else refused}"
        elif 300 <= code < 400:
            reason = (
                f"HTTP {code}: redirects are not followed, because the key would leak; set "
                f"{self.url_setting} to the final address"
            )
        raise PermanentError(reason, code)

    def _setting(self, name: str) -> str:
        """What the configuration calls another field."""
        return f"{self.url_setting.rpartition('.')[0]}.{name}"

    def _base(self) -> str:
        """The URL without a last slash. Raises EndpointError: malformed, or it has a secret."""
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise EndpointError(f"{self.url_setting}: expected http://HOST/... or https://HOST/...")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise EndpointError(
                f"{self.url_setting}: contains a password, ? or #; addresses are written to disk, "
                "so put the key into an environment variable and name it in "
                f"{self._setting('key_variable')}"
            )
        return self.url.rstrip("/")

    def _key(self) -> str | None:
        """Raises EndpointError: the variable is not set, or its value is not valid in a header."""
        if self.key_variable is None:
            return None
        setting = self._setting("key_variable")
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key_variable):  # not shown: it may be a key
            raise EndpointError(
                f"{setting}: expected the name of an environment variable, in capitals"
            )
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise EndpointError(
                f"the environment variable {self.key_variable} is not set: put the endpoint's key "
                f"there, name another with {setting}, or set that to null for none"
            )
        if not all("!" <= letter <= "~" and letter not in "\"'\\" for letter in key):
            raise EndpointError(
                f"{self.key_variable} contains spaces, quotes or letters outside ASCII, which no "
                "API key has; set it to the key alone"
            )
        return key
