"""Turns as messages of a chat template, and Jinja text for templates that know no images."""

import json
from typing import Any

from xmas.data.turns import Turn

# For templates of language models, whose contents are text: where a picture is, LLaVA's words.
AS_TEXT = """\
{%- set turned = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- set said = namespace(text='', opens=true) -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{%- set said.text = said.text + IMAGE -%}
{%- else -%}
{%- set first = said.text != '' and said.opens -%}
{%- set said.text = said.text + ('\\n' if first else '') + part['text'] -%}
{%- set said.opens = false -%}
{%- endif -%}
{%- endfor -%}
{%- set written = [dict(role=message['role'], content=said.text)] -%}
{%- set turned.messages = turned.messages + written -%}
{%- endfor -%}
{%- set messages = turned.messages -%}
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
