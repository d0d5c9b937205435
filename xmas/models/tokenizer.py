"""A tokenizer trained on a pool's text, for randomly initialised models."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from xmas.data.pool import Pool
from xmas.models.chat.template import Template
from xmas.store import Stage, Store

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
LONGEST = (
    20_000  # characters of a word in training, whose time grows with the square: 0.3 s for one
)
_LONG = re.compile(rf"\S{{{LONGEST + 1}}}|\s{{{LONGEST + 1}}}")
_PIECE = re.compile(rf"\s{{1,{LONGEST}}}\S{{0,{LONGEST}}}|\S{{1,{LONGEST}}}")


@dataclasses.dataclass(frozen=True)
class TrainedTokenizer(Stage):
    """A byte-level BPE as a Hugging Face tokenizer folder; ids 0, 1, 2 are pad, end, begin.

    The end mark is not 2: a CLIP whose end mark is 2 takes a text's features at its highest id
    instead (transformers, `CLIPTextModel`, for the sake of OpenAI's first configurations).

    The image token is not part of it: its id is the first after the vocabulary, so that no text
    can name it.
    """

    kind: ClassVar[str] = "tokenizer"
    version: ClassVar[int] = 2  # the order of the marks

    pools: Sequence[Pool]
    vocabulary: int = 1500  # at most

    def compute(self, store: Store, out: Path) -> None:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
        from transformers import PreTrainedTokenizerFast

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocabulary,
            special_tokens=[PAD, EOS, BOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(self.texts(store), trainer)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
        )
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token=PAD,
            bos_token=BOS,
            eos_token=EOS,
            clean_up_tokenization_spaces=False,
        ).save_pretrained(out)

    def texts(self, store: Store) -> Iterator[str]:
        """The texts that it is trained on, their very long words cut."""
        template = Template()
        yield template.user + template.assistant
        for pool in self.pools:
            examples = pool.open(store)
            for row in range(len(examples)):
                for question, answer in examples.conversation(row):
                    yield from pieces(question)
                    yield from pieces(" " + answer)


def pieces(text: str) -> Iterator[str]:
    """A text for training: whole, or word by word if one is longer than `LONGEST`, which is cut.

    A picture in base64 is a word of a million letters.
    """
    if len(text) <= LONGEST or not _LONG.search(text):
        yield text
    else:
        yield from _PIECE.findall(text)
