"""Rows of the pool itself that are held out: does a target give their answers?

For pools that no public benchmark fits, such as a user's own. `pool.hold_out` splits the pool so
that no near copy of a row held out is ranked or trained on (`xmas.data.held_out`). Nothing is
generated: both scores come from the probabilities of the answers that the rows have, each token
after the ones before it, as in training.

`heldout` is the likelihood of an answer token, 100 exp(-loss), where the loss is the mean
cross-entropy over all answer tokens of all rows: the geometric mean of their probabilities, or 100
over the perplexity. A loss itself is the lower the better, and a ratio of two losses depends on how
much of the text is unpredictable: relative likelihoods do not. That of a target against the
reference's, as every ARP takes it, is exp(loss of the reference - loss): one nat a token less is a
factor of e for any text. `detail` has the loss in nats.

`heldout_match` is over short answers, complete ones of up to five words on one line: the mean share
of an answer's tokens, its end mark included, that are the model's first choice. An answer with all
of them is an exact match: it is what greedy decoding gives; their share is `exact` in `detail`.

An ARP is over `heldout` alone: the match is of some of the same answers, and where it is near 0, as
of long or surprising ones, a ratio of two would be noise. It has its own column and intervals.

Both have their numbers by source in `detail`. The unit of intervals is a group of near copies:
answers about one picture are drawn together.
"""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Shaped

from xmas.data.held_out import HeldOutSplit
from xmas.data.pool import Pool
from xmas.evaluation.facts import Facts
from xmas.evaluation.given_answers import GivenAnswers
from xmas.evaluation.outcomes import Outcomes
from xmas.evaluation.protocol import AnswerError, Question, Scored
from xmas.store import Store


@dataclasses.dataclass(frozen=True)
class HeldOutLikelihood:
    """The likelihood of an answer token, in per cent.

    Args:
        pool: with `hold_out`.
    """

    name: ClassVar[str] = "heldout"
    metric: ClassVar[str] = "likelihood"
    split: ClassVar[str] = "held out"
    max_new_tokens: ClassVar[int] = 0  # nothing is generated
    facts: ClassVar[Facts] = Facts(order=200, counts=())

    pool: Pool

    @property
    def held_out(self) -> HeldOutSplit:
        """The stage that split the pool. Raises ValueError: none did."""
        split = self.pool.held_out_split
        if split is None:
            raise ValueError(
                f"benchmark {self.name}: pool {self.pool.name} has no rows held out; set "
                "pool.hold_out, as suite=heldout does"
            )
        return split

    def scored_rows(self) -> Pool:
        return self.held_out.held_out

    def asked(self, store: Store) -> list[Question]:
        """The first question of every row held out, once for each of its pictures.

        For the audit, which looks for these pictures in the pool.
        """
        examples = self.scored_rows().open(store)
        questions = []
        for row in range(len(examples)):
            rounds = examples.conversation(row)
            prompt = rounds[0][0] if rounds else ""
            for number, image in enumerate(examples.images_of(row) or [None]):
                questions.append(Question(f"{examples.file_row(row)}.{number}", prompt, image))
        return questions

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        """Raises AnswerError: texts have no probabilities."""
        raise AnswerError(
            f"{self.name}: it is scored from a target's probabilities of the answers of the rows "
            "held out, not from texts; goal=scores computes them"
        )

    def score_given(self, answers: GivenAnswers, store: Store) -> Scored:
        """100 exp(-loss), the loss a mean over tokens."""
        units, sources = self._of_answers(answers, store)
        detail = {"rows": len(np.unique(answers.row)), **_loss(answers, slice(None))}
        detail["sources"] = {
            str(source): {"score": 100 * math.exp(-part["loss"]), **part}
            for source in np.unique(sources)
            for part in [_loss(answers, sources == source)]
        }
        outcomes = _outcomes(units, answers.loss, answers.tokens, link="likelihood")
        return Scored(outcomes.score(), len(answers.row), detail, outcomes)

    def _of_answers(
        self, answers: GivenAnswers, store: Store
    ) -> tuple[Shaped[np.ndarray, " answers"], Shaped[np.ndarray, " answers"]]:
        """The group of near copies and the source of every answer."""
        examples = self.scored_rows().open(store)
        return self.held_out.groups(store)[answers.row], examples.sources[answers.row]


@dataclasses.dataclass(frozen=True)
class HeldOutMatch(HeldOutLikelihood):
    """The mean share of a short answer's tokens that are the model's first choice, in per cent."""

    name: ClassVar[str] = "heldout_match"
    metric: ClassVar[str] = "token_match"
    facts: ClassVar[Facts] = Facts(order=201, averaged=False, counts=())

    def score_given(self, answers: GivenAnswers, store: Store) -> Scored:
        """The score is invalid where no row has a short answer, and then in no table."""
        units, sources = self._of_answers(answers, store)
        short = answers.short
        if not short.any():
            return Scored(None, 0, {"invalid": "no row held out has a short answer"})
        shares = answers.right / answers.tokens
        detail = _match(shares, short)
        detail["sources"] = {
            str(source): _match(shares, short & (sources == source))
            for source in np.unique(sources[short])
        }
        outcomes = _outcomes(units[short], shares[short], np.ones(int(short.sum())))
        return Scored(outcomes.score(), int(short.sum()), detail, outcomes)


def _loss(answers: GivenAnswers, which: Any) -> dict[str, float]:
    """The mean loss of a token, in nats, and how many tokens and answers it is over."""
    tokens = int(answers.tokens[which].sum())
    loss = float(answers.loss[which].sum() / tokens)
    return {"loss": loss, "tokens": tokens, "num": len(answers.row[which])}


def _match(shares: Float[np.ndarray, " answers"], which: Bool[np.ndarray, " answers"]) -> Any:
    """The mean share of right tokens, that of answers with all right, and of how many answers."""
    return {
        "score": 100 * float(shares[which].mean()),
        "exact": 100 * float((shares[which] == 1).mean()),
        "num": int(which.sum()),
    }


def _outcomes(
    units: Shaped[np.ndarray, " answers"],
    gained: Float[np.ndarray, " answers"],
    counted: Shaped[np.ndarray, " answers"],
    link: str = "identity",
) -> Outcomes:
    """Sums over the answers of each unit."""
    names, of_answer = np.unique(units, return_inverse=True)
    gains, counts = (
        np.bincount(of_answer.reshape(-1), weights=values, minlength=len(names))
        for values in (gained, counted)
    )
    pairs = zip(names.tolist(), gains.tolist(), counts.tolist(), strict=True)
    terms = {name: {"": (gain, count)} for name, gain, count in pairs}
    return Outcomes.of(terms, {"": 100.0}, link)
