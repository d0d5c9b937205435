"""Keys on the command line that no setting has, answered with the nearest one.

Hydra's own answer to `selektor=xmas` is to write `+selektor=xmas`, which it accepts: the key is
added, nothing reads it, and the result is that of the default selector.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from xmas.cli.config import ConfigError, folder
from xmas.store.nearest import hint, nearest

_REFUSED = re.compile(r"Could not (?:override|delete from config\.) '([\w.]+)'")
_SEVERAL = re.compile(r"Ambiguous value for argument '(.*?)'\n", re.DOTALL)
_ADDED = re.compile(r"\+{1,2}([A-Za-z_]\w*)([\w.]*)(=.*)", re.DOTALL)
_ALIKE = 0.75  # difflib's ratio from which an added key counts as misspelt: one letter in four


# Mappings whose keys are the user's.
OWN_KEYS = "own_keys"  # the resolver of such a mapping, whose keys Hydra does not read
OPEN = (
    "subset.floors", "subset.caps", "validation.rows", "validation.files", "doctor.sha256",
    "doctor.known", "exam.starts", "target.lora.peft", "target.template.options",
    "proxy.template.options",
)  # fmt: skip


def with_own_keys(arguments: Sequence[str]) -> list[str]:
    """The arguments, with `++` before those that name a key of an `OPEN` mapping.

    Hydra takes no key that the configuration does not have, and these mappings are empty there.
    """
    return [
        f"++{argument}" if argument.partition("=")[0].startswith(OPEN) else argument
        for argument in arguments
    ]


def check_added(arguments: Sequence[str]) -> None:
    """Raise ConfigError for `+key=value` whose key is almost that of a setting.

    Other keys can be added: a user's own configuration may read them.
    """
    for argument in arguments:
        if (added := _ADDED.fullmatch(argument)) is None:
            continue
        key, inner, value = added.groups()
        names = _top_level()
        if key not in names and (near := nearest(key, names, similarity=_ALIKE)):
            raise ConfigError(f"{key}{inner} is no setting{hint(near + inner + value)}")


def explained(error: str, arguments: Sequence[str], known: DictConfig) -> str:
    """Hydra's error in one line with the nearest setting, if it is about an unknown key.

    Args:
        error: the text of its ConfigCompositionException.
        known: the configuration whose settings are suggested.
    """
    if several := _SEVERAL.match(error):
        name, _, values = several[1].partition("=")
        return (
            f"{several[1]} lists several values; add -m for a job of each, or if it is one text, "
            f"put it in quotes: \"{name}='{values}'\""
        )
    refused = _REFUSED.match(error)
    if refused is None:
        return " ".join(re.split("\nTo append|\nConfig search path|\nSee http", error)[0].split())
    key = refused[1]
    argument = next(text for text in arguments if text.lstrip("~+").split("=")[0] == key)
    value = argument.lstrip("~+").removeprefix(key)
    tilde = "~" if argument.startswith("~") else ""
    node, place, names = known, "", _top_level()
    for name in key.split("."):
        rest = key.removeprefix(f"{place}{name}")
        if name not in names:
            near = nearest(name, names)
            if not names:
                return f"{key} is no setting: {place[:-1]} has none here"
            if near is None:
                return f"{key} is no setting. There are {', '.join(place + name for name in names)}"
            return f"{key} is no setting{hint(f'{tilde}{place}{near}{rest}{value}')}"
        node = OmegaConf.select(node, name, throw_on_missing=False)
        if not OmegaConf.is_dict(node):
            return f"{key} is no setting: {place}{name} has nothing below it"
        place, names = f"{place}{name}.", sorted({*map(str, node)} - {"_target_"})
    return error


def _top_level() -> list[str]:
    """The groups, and the nodes of the root configuration."""
    conf = Path(folder())
    nodes = re.findall(r"^(\w+):", (conf / "config.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    groups = [path.name for path in conf.iterdir() if path.is_dir()]
    return sorted({*nodes, *groups} - {"defaults"})


def composed_choices(arguments: Sequence[str]) -> DictConfig:
    """The configuration that the groups chosen give; of a sweep, the first choice of each."""
    import hydra

    choices = [text.split(",")[0] for text in arguments if re.fullmatch(r"[a-z_/]+=[\w,-]+", text)]
    groups = [text for text in choices if (Path(folder()) / text.split("=")[0]).is_dir()]
    with hydra.initialize_config_dir(folder(), version_base="1.3"):
        return hydra.compose("config", groups)
