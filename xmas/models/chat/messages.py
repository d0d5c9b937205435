"""Turns as messages of a chat template, and Jinja text for templates that know no images."""

import json
from typing import Any

from xmas.data.turns import Turn

# For templates of language models, whose contents are text: where a picture is, LLaVA's words.
AS_TEXT = """\
{%- set texts = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- set turn = namespace(text='', opens=true) -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{%- set turn.text = turn.text + IMAGE -%}
{%- else -%}
{%- set first = turn.text != '' and turn.opens -%}
{%- set turn.text = turn.text + ('\\n' if first else '') + part['text'] -%}
{%- set turn.opens = false -%}
{%- endif -%}
{%- endfor -%}
{%- set text_message = [dict(role=message['role'], content=turn.text)] -%}
{%- set texts.messages = texts.messages + text_message -%}
{%- endfor -%}
{%- set messages = texts.messages -%}
"""


def message_of(turn: Turn) -> dict[str, Any]:
    """A turn with its text and images as parts, images where the turn has them."""
    first, *later = turn.pieces()
    parts = [{"type": "text", "text": first}] if first or not later else []
    for piece in later:
        parts.append({"type": "image"})
        parts += [{"type": "text", "text": piece}] if piece else []
    return {"role": turn.role, "content": parts}


def quoted(value: Any) -> str:
    """Plain data as Jinja writes it."""
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
