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
{%- macro shown(content, single) -%}
{%- set images = content | selectattr('type', 'equalto', 'image') | list -%}
{%- set turn = namespace(texts=false, opens=true, image=false) -%}
{%- for part in content if not single -%}
{%- if part['type'] == 'image' -%}{%- set turn.opens = turn.opens and not turn.texts -%}
{%- elif part['text'] -%}{%- set turn.texts = true -%}
{%- endif -%}
{%- endfor -%}
{%- set texts = content | rejectattr('type', 'equalto', 'image') | list -%}
{%- for part in (images + texts if single else content) -%}
{%- if part['type'] == 'image' -%}{{ IMAGE }}{%- set turn.image = true -%}
{%- elif part['text'] -%}
{%- if turn.image -%}
{{ BEHIND_IMAGE if turn.opens else GAP_SPACE if part['text'][0] == ' ' else GAP }}
{%- endif -%}
{{ part['text'] }}{%- set turn.image = false -%}
{%- endif -%}
{%- endfor -%}
{{ GAP_SPACE if turn.image else '' }}
{%- endmacro -%}
{%- macro written(content, single) -%}
{{ content if content is string else shown(content, single) }}
{%- endmacro -%}
{%- macro asked(words) -%}
{%- if words or LONE is none -%}
{{ USER + ('' if words.startswith(IMAGE) else BEHIND_USER) + words + BEHIND_QUESTION }}
{%- else -%}{{ LONE }}
{%- endif -%}
{%- endmacro -%}
{%- set row = namespace(images=0) -%}
{%- for message in messages if message['content'] is not string -%}
{%- for part in message['content'] if part['type'] == 'image' -%}
{%- set row.images = row.images + 1 -%}
{%- endfor -%}
{%- endfor -%}
{%- if messages[0]['role'] == 'system' -%}{{ said(messages[0]['content']) + BEHIND_SYSTEM }}
{%- else -%}{{ SYSTEM }}
{%- endif -%}
{%- for message in messages -%}
{%- set words = written(message['content'], row.images == 1) -%}
{%- if message['role'] == 'user' -%}
{{ asked(words) }}
{%- elif message['role'] == 'assistant' -%}
{{ ASSISTANT }}
{%- if words or LONE is none -%}
{%- generation -%}{{ BEHIND_ASSISTANT + words + EOS }}{%- endgeneration -%}
{{ BEHIND_ANSWER }}
{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ ASSISTANT }}{%- endif -%}
"""


def jinja(template: Template, *, image: str, gaps: tuple[str, str] = ("", "")) -> str:
    """Jinja text that `apply_chat_template` of transformers renders as `template` does.

    The only image of a conversation opens its turn, several are where the parts of a message have
    them. Answers are inside `generation`, so that transformers can mask them. A system message
    replaces the template's.

    Args:
        image: placeholder of an image.
        gaps: text that follows a placeholder before words, and before a space or at the end of a
            turn; for tokenizers that lose a space after a special token.
    """
    system = template.system + template.behind_system if template.system else ""
    texts = {
        "BEHIND_SYSTEM": template.behind_system,
        "BEHIND_USER": template.behind_user,
        "BEHIND_QUESTION": template.behind_question,
        "BEHIND_ASSISTANT": template.behind_assistant,
        "BEHIND_ANSWER": template.behind_answer,
        "BEHIND_IMAGE": gaps[0] + template.behind_image,
        "GAP": gaps[0],
        "GAP_SPACE": gaps[1],
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
