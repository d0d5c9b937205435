"""A text with images as token ids, tokenised in one piece as processors of transformers do.

Some tokenizers write a mark of space before a text, which chunks around images would each get.
"""

import itertools
import re
from collections.abc import Sequence
from typing import Any

TokenisedText = tuple[list[int], list[tuple[int, int]]]  # ids and their character offsets


def tokenise_whole(
    tokenizer: Any, chunks: Sequence[str], image: str | None, names: Sequence[str]
) -> list[TokenisedText]:
    """Ids and character offsets of every chunk, with an image between each and the next.

    The begin mark is that of the tokenizer, once: not where the text starts with it.

    Args:
        image: the text that the tokenizer reads as the image token; None: it has none, and every
            chunk is tokenised on its own.
        names: texts of tokens that in a chunk stay text: cut after the first letter, so that no
            tokenizer recognises them.
    """
    if image is None:
        parts = [_cut([chunk], "", names) for chunk in chunks]
    else:
        parts = [_cut(chunks, image, names)]
    starts = [0, *itertools.accumulate(len(chunk) + len(image or "") for chunk in chunks)]
    token = None if image is None else tokenizer.convert_tokens_to_ids(image)
    texts: list[TokenisedText] = []
    for number, pieces in enumerate(parts):
        texts.append(([], []))
        place = 0
        for piece in pieces:
            first = number == 0 and place == 0
            marked = first and not piece.startswith(tokenizer.bos_token or "\0")
            encoding = (
                tokenizer(piece, return_offsets_mapping=True, add_special_tokens=marked)
                if piece or first
                else {"input_ids": [], "offset_mapping": []}
            )
            ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
            cuts = [spot for spot, token_id in enumerate(ids) if token_id == token]
            for number_of_image, (start, stop) in enumerate(
                itertools.pairwise([-1, *cuts, len(ids)])
            ):
                if number_of_image:
                    texts.append(([], []))
                shift = place - (0 if image is None else starts[len(texts) - 1])
                texts[-1][0].extend(ids[start + 1 : stop])
                texts[-1][1].extend((a + shift, b + shift) for a, b in offsets[start + 1 : stop])
            place += len(piece)
    return texts


def _cut(chunks: Sequence[str], image: str, names: Sequence[str]) -> list[str]:
    """The chunks joined by `image`, cut where one of `names` is text."""
    named = re.compile("|".join(map(re.escape, names)) or "(?!)")
    cuts, start = [], 0
    for chunk in chunks:
        cuts += [start + match.start() + 1 for match in named.finditer(chunk)]
        start += len(chunk) + len(image)
    text = image.join(chunks)
    return [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
