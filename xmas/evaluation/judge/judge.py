"""The judge: which language model grades, how often and in which mode, and the grades it gives.

The judge's name is part of every score. Its address is not: the same model on another port or
through another proxy is the same judge; a different model needs another `model`. The API key is in
no field; it is read from the environment when a request is sent.

A review that cannot be read is never a number, and never left out: it makes the score invalid. The
official scripts count it as -1 or 0, which has given 96.1 points (lmms-eval, issue 64).
"""

import dataclasses
import functools
import hashlib
import logging
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from xmas.evaluation.endpoint.client import Endpoint
from xmas.evaluation.endpoint.concurrent_requests import concurrent_replies
from xmas.evaluation.endpoint.responses import EndpointError, NoTextError, Reply
from xmas.evaluation.json_files import json_lines
from xmas.evaluation.judge.reviews import ReviewRequest, Reviews, reviews_from_file
from xmas.evaluation.protocol import AnswerError, Scored
from xmas.store import Made, Store, volatile

log = logging.getLogger(__name__)

Name = TypeVar("Name", bound=Hashable)
Grade = TypeVar("Grade")

_OURS = ("model", "messages", "stream", "n")  # of a request, so not for `options`


@dataclasses.dataclass(frozen=True)
class Judge:
    """A language model on an OpenAI-compatible endpoint, which many requests reach at a time.

    Args:
        model: as the endpoint calls it; use a dated name, since others change without notice.
        options: of requests, for example `{"seed": 1}`; null leaves out what a benchmark sets.
        base_url, key_variable, tries, timeout, total_timeout: see `Endpoint`.
        at_once: requests in flight.
    """

    model: str | None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    base_url: str = volatile("http://localhost:8000/v1")
    key_variable: str | None = volatile(None)
    at_once: int = volatile(8)
    tries: int = volatile(6)
    timeout: float = volatile(120.0)
    total_timeout: float = volatile(1200.0)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(
            self.base_url,
            self.key_variable,
            self.tries,
            self.timeout,
            self.total_timeout,
            url_setting="judge.base_url",
        )

    def check(self) -> None:
        """Raise EndpointError if it cannot be asked: no name, no key, or a malformed address."""
        if not self.model:
            raise EndpointError(
                "judge.model is not set: name the judge as its endpoint does; the name is part of "
                "every score that it gives"
            )
        if self.at_once < 1 or self.tries < 1:
            raise EndpointError(
                f"judge.at_once={self.at_once}, judge.tries={self.tries}: expected 1 or more"
            )
        if reserved := sorted(set(self.options).intersection(_OURS)):
            raise EndpointError(f"judge.options: {', '.join(reserved)} cannot be set there")
        self.endpoint.check()

    def replies(self, requests: Mapping[Name, dict[str, Any]]) -> Iterator[tuple[Name, Reply]]:
        """The reply to every request body, in the order of arrival.

        Raises EndpointError, with the name of the request, when one has failed for good: replies to
        those in flight are yielded first, the others are not sent.
        """
        return self.replies_to((name, lambda body=body: body) for name, body in requests.items())

    def replies_to(
        self, requests: Iterable[tuple[Name, Callable[[], dict[str, Any]]]]
    ) -> Iterator[tuple[Name, Reply]]:
        """As `replies`, of bodies that are made when they are sent: images are not kept."""
        self.check()
        label = f"judge {self.model}"
        bodies = ((name, functools.partial(self._body, make)) for name, make in requests)
        for name, reply in concurrent_replies(
            self.endpoint, bodies, at_once=self.at_once, label=label
        ):
            if isinstance(reply, NoTextError):
                log.warning("%s: %s; an invalid review", label, reply)
                yield name, Reply("", reply.served, str(reply))
            else:
                yield name, reply

    def _body(self, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        body = {"model": self.model, **make(), **self.options}
        return {name: value for name, value in body.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Reviewed(Generic[Grade]):
    """The grades of every question, one per run; None where the review cannot be read."""

    grades: dict[Any, list[Grade | None]]
    about: dict[str, Any]  # the judge, and how often it was asked

    def invalid(self) -> Scored | None:
        """The invalid score, with the unread reviews, if one cannot be read; None otherwise."""
        unread = [
            {"question_id": name, "run": run}
            for name, runs in self.grades.items()
            for run, grade in enumerate(runs)
            if grade is None
        ]
        if not unread:
            return None
        total = sum(map(len, self.grades.values()))
        reason = f"{len(unread)} of {total} reviews cannot be read"
        return Scored(None, len(self.grades), {"invalid": reason, "unread": unread, **self.about})

    def runs(self) -> list[dict[Any, Grade]]:
        """The grade of every question, in each run. Only where nothing is `invalid`."""
        valid = {
            name: [grade for grade in grades if grade is not None]
            for name, grades in self.grades.items()
        }
        names = list(valid)
        return [dict(zip(names, run, strict=True)) for run in zip(*valid.values(), strict=True)]


@dataclasses.dataclass(frozen=True)
class Judging:
    """How a benchmark uses a judge.

    Args:
        runs: reviews of every answer; the score is their mean.
        asks: at most, for a review that can be read; all are stored, repeats are counted.
        system: the system message, if any.
        temperature, max_tokens: of requests; None: the endpoint's default.
    """

    judge: Judge
    runs: int = 3
    asks: int = 1
    system: str | None = None
    temperature: float | None = 0.0
    max_tokens: int | None = None

    def check(self) -> None:
        """Raise EndpointError if the judge cannot be asked, ValueError if it would never be."""
        if self.runs < 1 or self.asks < 1:
            raise ValueError(f"judging.runs={self.runs}, judging.asks={self.asks}: both from 1 up")
        self.judge.check()

    def reviewed(
        self,
        prompts: dict[Any, str],
        read: Callable[[str], Grade | None],
        *,
        file: str | Made | None,
        store: Store,
        answer_ids: Mapping[Any, str] = MappingProxyType({}),
    ) -> Reviewed[Grade]:
        """Grades for all prompts, from the reviews in `file` or else from the judge.

        Args:
            prompts: what the judge is asked, by question id.
            read: the grade of a review's text, None where it has none.
            file: reviews on disk, see `reviews_from_file`; no judge is asked then.
            answer_ids: of the graded answers, by question id, to compare with LLaVA's reviews.

        Raises:
            AnswerError: the file lacks a review, or has one that is doubled, unknown, by another
                judge or of another answer.
            EndpointError: the judge does not reply.
        """
        if file is None:
            lines = self._ask(prompts, read, store)
        else:
            lines = reviews_from_file(
                store.find(file),
                prompts,
                judge=self.judge.model,
                runs=self.runs,
                answer_ids=answer_ids,
            )
        grades: dict[Any, list[Grade | None]] = {name: [None] * self.runs for name in prompts}
        for line in lines:
            runs = grades[line["question_id"]]
            if runs[line["run"]] is None:
                runs[line["run"]] = read(line["content"])
        about = {
            "judge": self.judge.model,
            "served": sorted({line["served"] for line in lines if line.get("served")}),
            "asked_again": sum(line["attempt"] > 0 for line in lines),
        }
        return Reviewed(grades, about)

    def _ask(
        self, prompts: dict[Any, str], read: Callable[[str], Grade | None], store: Store
    ) -> list[dict[str, Any]]:
        """The judge's reviews; unreadable ones are requested again, up to `asks` times in all."""
        self.check()
        requests = [
            ReviewRequest(name, run, prompt)
            for run in range(self.runs)
            for name, prompt in prompts.items()
        ]
        lines: list[dict[str, Any]] = []
        for attempt in range(self.asks):
            stage = Reviews(
                self.judge,
                tuple(requests),
                system=self.system,
                temperature=self.temperature,
                max_tokens=self.max_tokens,
                attempt=attempt,
            )
            replies = json_lines(store.get(stage) / "reviews.jsonl")
            lines += replies
            requests = [
                request
                for request, line in zip(requests, replies, strict=True)
                if read(line["content"]) is None
            ]
            if not requests:
                break
        return lines


def number(text: str, most: float) -> float | None:
    """A plain decimal from 0 to `most`, or None, as for "nan", "1e1", "8/10" and "9."."""
    if not re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        return None
    return float(text) if float(text) <= most else None


def check_wording(text: str, official: str, where: Path) -> None:
    """Raise AnswerError unless the words of `text`, in single spaces, have this sha256."""
    if hashlib.sha256(" ".join(text.split()).encode()).hexdigest() != official:
        raise AnswerError(
            f"{where}: not the official wording; take the official file, or set wording=NAME, "
            "which becomes part of the score's metric"
        )
