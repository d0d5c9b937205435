"""A template as Jinja text, for the folders that other software reads."""

import json

from xmas.models.chat.template import Template

_TEXT = """\
{%- macro said(content) -%}
{%- if content is string -%}{{ content }}
{%- else -%}{%- for part in content if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- macro shown(content) -%}
{%- set images = [] if content is string else content | selectattr('type', 'equalto', 'image') -%}
{%- for part in images -%}IMAGE{%- else -%}{{ BEHIND_USER }}{%- endfor -%}
{%- endmacro -%}
{%- if messages[0]['role'] == 'system' -%}{{ said(messages[0]['content']) + BEHIND_SYSTEM }}
{%- else -%}{{ SYSTEM }}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{ USER + shown(message['content']) + said(message['content']) + BEHIND_QUESTION }}
{%- elif message['role'] == 'assistant' -%}
{{ ASSISTANT }}
{%- generation -%}{{ BEHIND_ASSISTANT + said(message['content']) + EOS }}{%- endgeneration -%}
{{ BEHIND_ANSWER }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ ASSISTANT }}{%- endif -%}
"""


def jinja(template: Template, *, image: str, behind_image: str | None = None) -> str:
    """Jinja text that `apply_chat_template` of transformers renders as `template` does.

    Equal wherever questions have words. Answers are inside `generation`, so that transformers can
    mask them. A system message replaces the template's.

    Args:
        image: placeholder of an image.
        behind_image: text after an image; None: the template's. For tokenizers that lose a space
            after a special token.
    """
    behind = template.behind_image if behind_image is None else behind_image
    system = template.system + template.behind_system if template.system else ""
    texts = {
        "BEHIND_SYSTEM": template.behind_system,
        "BEHIND_USER": template.behind_user,
        "BEHIND_QUESTION": template.behind_question,
        "BEHIND_ASSISTANT": template.behind_assistant,
        "BEHIND_ANSWER": template.behind_answer,
        "SYSTEM": system,
        "USER": template.user,
        "ASSISTANT": template.assistant,
        "EOS": template.eos,
    }
    text = _TEXT.replace("\n", "").replace("IMAGE", "{{ " + _quoted(image + behind) + " }}")
    for name, value in texts.items():
        text = text.replace(name, _quoted(value))
    return text


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
