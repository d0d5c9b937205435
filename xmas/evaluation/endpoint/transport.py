"""One HTTP request that ends, with any server: its bytes and its seconds are bounded.

A timeout of a socket is for one read: a server that sends a byte a minute, in the headers, the body
or between chunks, is always in time. So a timer shuts the connection down when the whole request
has taken too long.
"""

import dataclasses
import http.client
import socket
import threading
import urllib.request
from typing import Any

MOST = 4 << 20  # bytes of a reply; a text of 100,000 tokens has half a megabyte


@dataclasses.dataclass(frozen=True)
class Response:
    """The status, the header Retry-After and the body of any response, errors too."""

    status: int
    retry_after: str | None
    body: bytes


class ResponseError(OSError):
    """A response is longer than any reply may be."""


class LateError(OSError):
    """A response takes longer than any reply may."""


def send(
    address: str,
    body: bytes | None,
    headers: dict[str, str],
    *,
    timeout: float,
    total_timeout: float,
) -> Response:
    """Send a request and read the response; redirects are not followed.

    Args:
        body: of a POST; None: a GET.
        timeout: seconds without a byte.
        total_timeout: seconds until the whole response is there.

    Raises:
        ResponseError: it is too long.
        LateError: it is too late.
        OSError, http.client.HTTPException: the connection failed.
    """
    request = urllib.request.Request(address, body, headers)
    late = f"no whole reply within {total_timeout:g} s"
    with _Deadline(total_timeout) as deadline:
        opener = urllib.request.build_opener(_NoRedirects, _Http(deadline), _Https(deadline))
        try:
            with opener.open(request, timeout=timeout) as response:
                content = response.read(MOST + 1)
                if response.length and len(content) <= MOST:
                    raise http.client.IncompleteRead(content, response.length)
                status, retry_after = response.status, response.headers.get("Retry-After")
        except (OSError, http.client.HTTPException):
            if deadline.passed:
                raise LateError(late) from None
            raise
        if deadline.passed:  # a body without a length ends where the connection does
            raise LateError(late)
    if len(content) > MOST:
        raise ResponseError(f"a reply of more than {MOST >> 20} MiB")
    return Response(status, retry_after, content)


class _Deadline:
    """Shuts down the connections that it watches when its time is up."""

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> "_Deadline":
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()

    def watch(self, connection: socket.socket) -> None:
        with self._lock:
            self._sockets.append(connection)
            if self.passed:
                _shut(connection)

    def _end(self) -> None:
        with self._lock:
            self.passed = True
            for connection in self._sockets:
                _shut(connection)


def _shut(connection: socket.socket) -> None:
    try:  # of the plain socket: TLS would forget its state while another thread reads
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    except OSError:  # the server was faster
        return


class _NoRedirects(urllib.request.HTTPErrorProcessor):
    """Returns every response, errors too. Redirects are not followed, since the key would be sent
    to the address that the server names.
    """

    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


class _Http(urllib.request.HTTPHandler):
    """Connects over HTTP, watched by a deadline."""

    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: Any) -> Any:
        return self.do_open(_watched(http.client.HTTPConnection, self._deadline), req)


class _Https(urllib.request.HTTPSHandler):
    """Connects over HTTPS, watched by a deadline."""

    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def https_open(self, req: Any) -> Any:
        return self.do_open(_watched(http.client.HTTPSConnection, self._deadline), req)


def _watched(connection: type[http.client.HTTPConnection], deadline: _Deadline) -> Any:
    """A class of connections whose sockets are watched from when they are open."""

    class Watched(connection):
        def connect(self) -> None:
            super().connect()
            deadline.watch(self.sock)

    return Watched
