"""The words of a command line, made what Hydra reads as they are meant, or refused with a remedy.

Hydra takes flags only before or after all settings, splits values at commas, and reads no `=`,
bracket, quote or letter beyond ASCII that a file's name may have.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xmas.cli.config_error import ConfigError
from xmas.cli.goals import GOALS
from xmas.cli.unknown_settings import OPEN, OWN_KEYS, with_own_keys
from xmas.store.nearest import hint, nearest

_SETTING = re.compile(r"([+~]{0,2}[\w./@:-]+)=(.*)", re.DOTALL)
_PLAIN = re.compile(r"[\w./:+*?@%$|\\-]*", re.ASCII)  # of these Hydra makes one value
_BUDGETS = ("subset.fraction", "subset.rows", "subset.tokens")


def prepared(arguments: Sequence[str]) -> list[str]:
    """The arguments for Hydra: flags first, file names in quotes, keys of users' own added.

    Raises ConfigError: a word is no setting, a flag none of Hydra's, or two budgets are given.
    """
    flags, settings = [], []
    for words in _flags_and_words(arguments):
        (flags if words[0].startswith("-") else settings).append(words)
    for (word,) in settings:
        _check_setting(word)
    texts = [whole(word) for (word,) in settings]
    _check_budgets(texts)
    return [*(word for words in flags for word in words), *with_own_keys(texts)]


def whole(argument: str) -> str:
    """A setting whose value is one text although Hydra would split or refuse it, in quotes: a name
    that a file has, or anything that Hydra cannot read and that begins none of Hydra's own forms.

    >>> whole("pool.images=my,pictures=[1]")
    "pool.images='my,pictures=[1]'"
    >>> whole("selector=random,xmas"), whole("subset.write=[llava]")
    ('selector=random,xmas', 'subset.write=[llava]')

    Raises ConfigError: a list, mapping or interpolation that cannot be read.
    """
    setting = _SETTING.fullmatch(argument)
    if setting is None:
        return argument
    name, value = setting.groups()
    if not name.isascii():
        raise ConfigError(
            f"{name}: names of settings have ASCII letters alone; the name of a source goes into a "
            "mapping, as in 'subset.floors={\"élèves\": 500}'"
        )
    if _PLAIN.fullmatch(value) or value[0] in "'\"":
        return argument
    if not _is_there(value):
        if _is_read(argument):
            return argument
        if name.startswith(OPEN) and (keys := _mapping(value)) is not None:
            return f"{name}='${{{OWN_KEYS}:x{json.dumps(keys).encode().hex()}}}'"
        if value[0] in "[{(" or "${" in value:
            raise ConfigError(
                f"{argument} cannot be read as a list [a, b], a mapping {{a: 1}} or ${{a.node}}; "
                f"correct it, or if it is one text, put it in quotes: \"{name}='...'\""
            )
    escaped = re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + (r"\'" if end[2] else ""), value)
    return f"{name}='{escaped.replace('${', chr(92) + '${')}'"


def _mapping(value: str) -> dict[str, Any] | None:
    """A mapping as YAML reads it, with keys of any letters; None if it is none."""
    import yaml

    try:
        keys = yaml.safe_load(value)
    except yaml.YAMLError:
        return None
    return keys if isinstance(keys, dict) else None


def _is_there(value: str) -> bool:
    try:
        return Path(value).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, with a null, of an unknown user
        return False


def _is_read(argument: str) -> bool:
    """Whether Hydra's grammar reads a setting as it is."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def _flags_and_words(arguments: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Every flag with its value, and every other word alone. Raises ConfigError: no such flag."""
    from hydra._internal.utils import get_args_parser

    actions = {name: a for a in get_args_parser()._actions for name in a.option_strings}
    words = list(arguments)
    while words:
        word = words.pop(0)
        flag, equals, _ = word.partition("=")
        if not word.startswith("-"):
            yield (word,)
            continue
        if flag not in actions:
            raise ConfigError(f"{flag} is no flag{hint(nearest(flag, actions))} See xmas --help")
        has_value = actions[flag].nargs != 0 and not equals and words
        if has_value and (actions[flag].nargs != "?" or words[0] in (actions[flag].choices or ())):
            yield word, words.pop(0)
        else:
            yield (word,)


def _check_setting(word: str) -> None:
    if "=" in word or word.startswith("~"):
        return
    if word in GOALS:
        raise ConfigError(f"{word} is no setting; did you mean goal={word}?")
    near = nearest(word, GOALS)
    raise ConfigError(
        f"{word} is no setting, which has the form KEY=VALUE{hint(near and f'goal={near}')} "
        "See xmas --help"
    )


def _check_budgets(arguments: Sequence[str]) -> None:
    """Raise ConfigError: a command asks for budgets of two kinds, of which one would win."""
    budgets = [
        argument
        for argument in arguments
        if argument.lstrip("+").partition("=")[0] in _BUDGETS
        and argument.partition("=")[2] not in ("null", "")
    ]
    if len({argument.lstrip("+").partition("=")[0] for argument in budgets}) > 1:
        raise ConfigError(f"{' and '.join(budgets)} are two budgets; give one of them")
