"""A template as Jinja text, for the folders that other software reads."""

import json
import re

from xmas.models.chat.template import Template

_TEXT = """\
{%- macro said(content) -%}
{%- if content is string -%}{{ content }}
{%- else -%}{%- for part in content if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- macro asked(content, words) -%}
{%- set images = [] if content is string else content | selectattr('type', 'equalto', 'image') -%}
{%- for part in images -%}
{{ (USER if loop.first else '') + IMAGE + (BEHIND_IMAGE if words else BEHIND_LONE_IMAGE) }}
{{ words + BEHIND_QUESTION if loop.last else '' }}
{%- else -%}
{{ USER + BEHIND_USER + words + BEHIND_QUESTION if words or LONE is none else LONE }}
{%- endfor -%}
{%- endmacro -%}
{%- if messages[0]['role'] == 'system' -%}{{ said(messages[0]['content']) + BEHIND_SYSTEM }}
{%- else -%}{{ SYSTEM }}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{ asked(message['content'], said(message['content'])) }}
{%- elif message['role'] == 'assistant' -%}
{{ ASSISTANT }}
{%- if said(message['content']) or LONE is none -%}
{%- generation -%}{{ BEHIND_ASSISTANT + said(message['content']) + EOS }}{%- endgeneration -%}
{{ BEHIND_ANSWER }}
{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ ASSISTANT }}{%- endif -%}
"""


def jinja(template: Template, *, image: str, gaps: tuple[str, str] = ("", "")) -> str:
    """Jinja text that `apply_chat_template` of transformers renders as `template` does.

    Equal unless an image is in an answer, where it is left out. Answers are inside `generation`, so
    that transformers can mask them. A system message replaces the template's.

    Args:
        image: placeholder of an image.
        gaps: text that follows a placeholder before words, and one that is all of its question; for
            tokenizers that lose a space after a special token.
    """
    system = template.system + template.behind_system if template.system else ""
    texts = {
        "BEHIND_SYSTEM": template.behind_system,
        "BEHIND_USER": template.behind_user,
        "BEHIND_QUESTION": template.behind_question,
        "BEHIND_ASSISTANT": template.behind_assistant,
        "BEHIND_ANSWER": template.behind_answer,
        "BEHIND_IMAGE": gaps[0] + template.behind_image,
        "BEHIND_LONE_IMAGE": gaps[1],
        "IMAGE": image,
        "LONE": template.lone_user,
        "SYSTEM": system,
        "USER": template.user,
        "ASSISTANT": template.assistant,
        "EOS": template.eos,
    }
    return re.sub(r"\b[A-Z_]+\b", lambda name: _quoted(texts[name[0]]), _TEXT.replace("\n", ""))


def _quoted(text: str | None) -> str:
    return "none" if text is None else json.dumps(text, ensure_ascii=False)
