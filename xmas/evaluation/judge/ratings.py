"""A judge's rating of every row of a pool, as a file of scores that selectors rank by."""

import csv
import dataclasses
import functools
import logging
import re
from pathlib import Path
from typing import Any, ClassVar

from xmas.data.pool import Pool
from xmas.data.rows import Rows
from xmas.evaluation.generation.served_answers import data_uri
from xmas.evaluation.judge.judge import Judge
from xmas.store import Stage, Store, nearest_stages, write_atomically
from xmas.store.lines import appending, keep_whole_lines
from xmas.store.progress import bar

log = logging.getLogger(__name__)

FILE = "ratings.csv"
CONVERSATION = "{conversation}"  # in a prompt, where the row goes
PROMPT = """\
Below is a conversation about the image, as an example to train a vision-language model with. \
Rate its quality as an integer from 1 to 5: 1 if it is wrong about the image, empty or \
incoherent; 3 if it is right but trivial; 5 if it is right, needs the image, and teaches much. \
Reply with the number alone.

{conversation}"""
LOWEST, HIGHEST = 1, 5


@dataclasses.dataclass(frozen=True)
class Ratings(Stage):
    """Ratings of 1 to 5 of every row with an image, by a vision-language model behind an endpoint.

    Writes `ratings.csv`, row and rating; `replies.jsonl`, a line for each reply. A row whose reply
    has no rating after the last try is not in `ratings.csv`. Replies that are on disk are not asked
    for again, also after a kill.

    The prompt is ours: Data-DPO (arXiv 2608.16926) does not give its own.

    Args:
        prompt: what the judge is asked; `{conversation}` is the place of the row's questions and
            answers, whose images come before.
        tries: requests for a reply that has a rating.

    Raises ValueError: `prompt` has no place for the conversation, or there are no tries.
    """

    kind: ClassVar[str] = "ratings"

    pool: Pool
    judge: Judge
    prompt: str = PROMPT
    tries: int = 2
    max_tokens: int | None = 16
    temperature: float | None = 0.0

    def __post_init__(self) -> None:
        if CONVERSATION not in self.prompt:
            raise ValueError(f"ratings.prompt: {CONVERSATION} is missing, the place of the row")
        if self.tries < 1:
            raise ValueError(f"ratings.tries={self.tries}: expected 1 or more")

    def inputs(self) -> list[Stage]:
        return [*nearest_stages(self.pool)]

    def check(self, store: Store) -> None:
        """Raises EndpointError: the judge cannot be asked."""
        self.judge.check()

    def compute(self, store: Store, out: Path) -> None:
        """Raises EndpointError: the judge does not reply; names the row."""
        examples = self.pool.open(store)
        lines = keep_whole_lines(out / "replies.jsonl")
        ratings = {line["row"]: rating_of(line["content"]) for line in lines}
        asked = [row for row in range(len(examples)) if examples.has_image[row]]
        with (
            appending(out / "replies.jsonl", seconds=0) as append,  # each was paid for
            bar(total=len(asked), label="ratings", unit="rating") as progress,
        ):
            progress.update(sum(rating is not None for rating in ratings.values()))
            for attempt in range(self.tries):
                missing = [row for row in asked if ratings.get(row) is None]
                requests = (
                    (f"row {row}", functools.partial(self._body, examples, row)) for row in missing
                )
                for name, reply in self.judge.replies_to(requests):
                    row = int(name.removeprefix("row "))
                    append({"row": row, "attempt": attempt, **dataclasses.asdict(reply)})
                    ratings[row] = rating_of(reply.content)
                    progress.update(ratings[row] is not None)
        rated = {row: rating for row in asked if (rating := ratings.get(row)) is not None}
        if len(rated) < len(asked):
            log.warning(
                "%d of %d replies have no rating from %d to %d, see replies.jsonl; such rows are "
                "ranked last by selector.quality.missing=last",
                len(asked) - len(rated), len(asked), LOWEST, HIGHEST,
            )  # fmt: skip
        write_atomically(out / FILE, lambda path: _write(path, rated))

    def make(self, store: Store) -> str:
        """The file of the ratings."""
        return str(store.get(self) / FILE)

    def _body(self, examples: Rows, row: int) -> dict[str, Any]:
        """A request: the row's images, then the prompt."""
        conversation = "\n".join(
            f"Question: {question}\nAnswer: {answer}"
            for question, answer in examples.conversation(row)
        )
        images = [
            {"type": "image_url", "image_url": {"url": data_uri(image)}}
            for image in examples.images_of(row)
        ]
        text = {"type": "text", "text": self.prompt.replace(CONVERSATION, conversation)}
        return {
            "messages": [{"role": "user", "content": [*images, text]}],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }


def rating_of(reply: str) -> int | None:
    """The rating of a reply: the only number in it, from 1 to 5; None for any other reply.

    >>> from xmas.evaluation.judge.ratings import rating_of
    >>> [rating_of(reply) for reply in ("4", "Rating: 4.", "4/5", "6", "4.5", "good")]
    [4, 4, None, None, None, None]
    """
    numbers = re.findall(r"\d+(?:\.\d+)?", reply)
    if len(numbers) != 1 or not numbers[0].isdigit():
        return None
    rating = int(numbers[0])
    return rating if LOWEST <= rating <= HIGHEST else None


def _write(path: Path, ratings: dict[int, int]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "rating"])
        writer.writerows(ratings.items())
