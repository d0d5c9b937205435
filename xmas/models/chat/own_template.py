"""The chat template that a tokenizer or processor brings, as a conversation's template."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from xmas.models.chat.layout import NO_TEXT, Around
from xmas.models.chat.tokenizer_template import REMEDY, TokenizerTemplate
from xmas.store import content


@dataclasses.dataclass(frozen=True)
class OwnTemplate:
    """The tokenizer's own chat template (`apply_chat_template` of transformers).

    What a template adds by itself, such as a system prompt, is in the text. Labelled is what the
    template marks with `{% generation %}`, else an answer from the end of its prompt on; and the
    mark that ends the turn, as TRL and LLaMA-Factory train, but no white space after it. The Jinja
    text is in the start point's folder, so it is part of the start point's key.

    Args:
        options: variables for the template, such as `enable_thinking` or `date_string`.
        file: a Jinja file to take the place of the tokenizer's; its content is part of the key.
    """

    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    file: str | None = content(None)

    def of(
        self, tokenizer: Any, literal: str | None, around: Around = NO_TEXT
    ) -> TokenizerTemplate:
        """Bind the template to a tokenizer.

        Args:
            literal: the text that the tokenizer reads as the image token, if any.
            around: text that the processor writes before and after the tokens of an image.

        Raises ValueError: there is no template, or a fit could not use it; says why.
        """
        if self.file is not None:
            with open(self.file, encoding="utf-8") as file:
                text: Any = file.read()
        else:
            text = tokenizer.chat_template
        if isinstance(text, Mapping):
            text = text.get("default")
        if not text:
            raise ValueError(
                "the tokenizer has no chat template: neither chat_template.jinja, "
                f"chat_template.json nor tokenizer_config.json of the start point has one; {REMEDY}"
            )
        if "strftime_now" in text and "date_string" not in self.options:
            raise ValueError(
                "the chat template writes today's date, so that tokens would differ from day to "
                "day; fix it: template.options.date_string='26 Jul 2024'"
            )
        return TokenizerTemplate(tokenizer, text, self.options, literal, around)
