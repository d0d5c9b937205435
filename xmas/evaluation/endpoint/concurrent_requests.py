"""Many chat completions at a time, in the order in which they arrive."""

import concurrent.futures
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator
from threading import Event
from typing import Any, TypeVar

from xmas.evaluation.endpoint.client import Endpoint
from xmas.evaluation.endpoint.responses import AbortedError, EndpointError, NoTextError, Reply

Name = TypeVar("Name", bound=Hashable)
Body = Callable[[], dict[str, Any]]  # called in the thread that sends it: images are not kept

_AHEAD = 2  # requests that are submitted for each that may be in flight: no thread waits for one


def concurrent_replies(
    endpoint: Endpoint,
    requests: Iterable[tuple[Name, Body]],
    *,
    at_once: int,
    label: str,
) -> Iterator[tuple[Name, Reply | NoTextError]]:
    """The reply to every request, or that its completion has no text.

    Args:
        at_once: requests in flight.
        label: in warnings.

    Raises:
        EndpointError: with the name of the request, when one has failed for good. Replies to those
            in flight are yielded first, the others are not sent.
        Exception: what making a body raises, likewise.
    """
    stop = Event()
    failure: BaseException | None = None
    remaining = iter(requests)
    names: dict[concurrent.futures.Future[Reply], Name] = {}
    with concurrent.futures.ThreadPoolExecutor(at_once) as threads:
        try:
            while True:
                free = _AHEAD * at_once - len(names)
                for name, body in itertools.islice(remaining, 0 if stop.is_set() else free):
                    names[threads.submit(_sent, endpoint, body, label, stop)] = name
                if not names:
                    break
                done, _ = concurrent.futures.wait(
                    names, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    name, error = names.pop(future), future.exception()
                    if error is None:
                        yield name, future.result()
                    elif isinstance(error, NoTextError):
                        yield name, error
                    elif not isinstance(error, AbortedError):
                        stop.set()
                        failure = failure or _naming(name, error)
        finally:
            stop.set()
    if failure is not None:
        raise failure


def _sent(endpoint: Endpoint, body: Body, label: str, stop: Event) -> Reply:
    if stop.is_set():
        raise AbortedError
    return endpoint.complete(body(), label=label, stop=stop)


def _naming(name: Hashable, error: BaseException) -> BaseException:
    return EndpointError(f"{name}: {error}") if isinstance(error, EndpointError) else error
