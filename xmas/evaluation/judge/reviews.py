"""Reviews as a stage: what a judge replied, kept line by line as it came.

Its identity holds all that is sent, so the same answers under the same judge are reviewed once,
whoever asks for it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from xmas.evaluation.judge.judge import Judge
from xmas.store import Stage, Store, describe, write_atomically
from xmas.store.progress import bar


@dataclasses.dataclass(frozen=True)
class Asked:
    """One review that is wanted: of which question, in which run, in reply to what."""

    question_id: str | int
    run: int
    prompt: str

    def __str__(self) -> str:
        return f"question {self.question_id}, run {self.run}"


@dataclasses.dataclass(frozen=True)
class Reviews(Stage):
    """`reviews.jsonl`, a line a review, and `prompts.jsonl`, a line a question.

    Lines are written as replies come and put into the order of `asked` at the end; an interrupted
    attempt goes on with those that are missing.
    """

    kind: ClassVar[str] = "reviews"

    judge: Judge
    asked: tuple[Asked, ...]
    system: str | None
    temperature: float | None
    max_tokens: int | None
    attempt: int = 0  # later ones repeat what could not be read

    def identity(self) -> dict[str, Any]:
        sent = [dataclasses.astuple(one) for one in self.asked]
        return {
            "version": self.version,
            "judge": describe(self.judge),
            "system": self.system,
            "temperature": describe(self.temperature),
            "max_tokens": describe(self.max_tokens),
            "attempt": self.attempt,
            "reviews": len(sent),
            "asked": hashlib.sha256(json.dumps(sent).encode()).hexdigest(),
        }

    def compute(self, store: Store, out: Path) -> None:
        finished, partial = out / "reviews.jsonl", out / "reviews.partial"
        if finished.exists():
            return
        prompts = {one.question_id: one.prompt for one in self.asked}
        _write(
            out / "prompts.jsonl",
            ({"question_id": name, "prompt": prompt} for name, prompt in prompts.items()),
        )
        done = {(line["question_id"], line["run"]): line for line in _whole_lines(partial)}
        missing = {
            one: self._body(one) for one in self.asked if (one.question_id, one.run) not in done
        }
        label = f"reviews by {self.judge.model}"
        with (
            partial.open("a", encoding="utf-8") as file,
            bar(total=len(self.asked), label=label, unit="review", initial=len(done)) as progress,
        ):
            for one, reply in self.judge.replies(missing):
                line = {
                    "question_id": one.question_id,
                    "run": one.run,
                    "attempt": self.attempt,
                    "judge": self.judge.model,
                    **dataclasses.asdict(reply),
                    "prompt_sha256": digest(one.prompt),
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                done[one.question_id, one.run] = line
                progress.update()
        _write(finished, (done[one.question_id, one.run] for one in self.asked))
        partial.unlink()

    def _body(self, one: Asked) -> dict[str, Any]:
        said = [] if self.system is None else [{"role": "system", "content": self.system}]
        return {
            "messages": [*said, {"role": "user", "content": one.prompt}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }


def digest(prompt: str) -> str:
    """By which a review is known to be of a prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of an interrupted attempt; the last is cut off if it is torn."""
    if not path.exists():
        return []
    written = path.read_bytes()
    whole = written[: written.rfind(b"\n") + 1]
    if len(whole) < len(written):
        path.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
