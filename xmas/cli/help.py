"""`xmas --help`, `--help groups`, `--help GROUP`, `--help config`, and `--version`.

The first page and the version load no other package; the groups read the YAML files, and only the
whole configuration is composed.
"""

import ast
import re
from collections.abc import Sequence
from pathlib import Path

from xmas.cli.conf_folder import folder
from xmas.cli.config_error import ConfigError
from xmas.cli.goals import GOALS
from xmas.store.nearest import suggestion

_FLAGS = ("--help", "-h")
_VERSION = "--version"
_PAGE = """\
usage: xmas [goal=GOAL] [GROUP=CHOICE ...] [KEY=VALUE ...] [-m]

Choose the small part of a visual-instruction set that trains a model as well as all of it.

goals
{goals}
  or the node of any stage, such as clusters.trajectories

settings
  pool=files pool.annotations=FILE pool.images=DIR   your own pool: JSON, JSON lines
  pool=files pool.path=FOLDER                        Parquet or Arrow, or OWNER/NAME of the hub
  selector=random|length|xmas|coincide|...           how rows are ranked: --help selector
  subset.fraction=0.2, subset.rows=N, subset.tokens=N   the budget
  seed=0                                             of ranking and target
  proxy=NAME target=NAME suite=NAME hardware=NAME    models, benchmarks, devices
  store.root=DIR                                     where results are; default: ./store
  -m                                                 a job for every combination of KEY=A,B

examples
  xmas pool=files pool.annotations=mix.json pool.images=DIR selector=random subset.fraction=0.2
  xmas goal=doctor pool=files pool.path=FOLDER
  xmas goal=audit selector=xmas subset.fraction=0.1
  xmas -m goal=scores selector=random,length,xmas subset.fraction=0.1,0.3 seed=0,1
  xmas goal=table

more
  xmas --help groups                 all groups and their choices
  xmas --help selector               the choices of one group
  xmas --help config [KEY=VALUE...]  the whole configuration
  xmas --version, xmas --hydra-help  the version; further flags
"""


def wanted(arguments: Sequence[str]) -> bool:
    """Whether a page or the version is asked for; with further flags the page is Hydra's."""
    flags = {argument for argument in arguments if argument.startswith("-")}
    return bool(flags) and (flags <= {*_FLAGS} or flags == {_VERSION})


def page(arguments: Sequence[str]) -> str:
    """The page that these arguments ask for.

    Raises:
        ConfigError: it is about a group that does not exist.
        ConfigCompositionException: a configuration cannot be composed.
    """
    if _VERSION in arguments:
        return _version()
    words = [argument for argument in arguments if argument not in _FLAGS]
    topics = [word for word in words if "=" not in word and not word.startswith("~")]
    if not topics:
        width = max(map(len, GOALS)) + 2
        return _PAGE.format(
            goals="\n".join(f"  {name:<{width}}{about}" for name, about in GOALS.items())
        )
    conf = Path(folder())
    groups = _groups(conf)
    if topics == ["config"]:
        return _configuration([word for word in words if word != "config"])
    if topics == ["groups"]:
        return "\n".join(f"{group}: {', '.join(names)}" for group, names in groups.items())
    if len(topics) == 1 and topics[0] in groups:
        return _choices(conf, topics[0], groups[topics[0]])
    raise ConfigError(
        f"--help {' '.join(topics)} is no page"
        f"{suggestion(topics[0], ['config', 'groups', *groups], form='--help {}')}"
    )


def _version() -> str:
    from importlib.metadata import version

    from xmas.store.provenance import commit

    at = commit()
    return f"xmas {version('xmas')}{f', commit {at}' if at else ''}"


def _configuration(overrides: list[str]) -> str:
    import hydra
    from omegaconf import OmegaConf

    import xmas.cli.config  # noqa: F401  # its resolvers

    with hydra.initialize_config_dir(folder(), version_base="1.3"):
        return OmegaConf.to_yaml(hydra.compose("config", overrides))


def _groups(conf: Path) -> dict[str, list[str]]:
    """The choices of every group, without those of Hydra."""
    choices: dict[str, list[str]] = {}
    for path in sorted(conf.glob("*/**/*.yaml")):
        choices.setdefault(path.parent.relative_to(conf).as_posix(), []).append(path.stem)
    return {group: names for group, names in sorted(choices.items()) if group[:6] != "hydra/"}


def _choices(conf: Path, group: str, names: list[str]) -> str:
    """A line for every choice: its name, and what its class is; where choices share one, the
    comment that its file begins with.
    """
    texts = [(conf / group / f"{name}.yaml").read_text(encoding="utf-8") for name in names]
    targets = [re.search(r"^_target_: (xmas[\w.]+)$", text, re.MULTILINE) for text in texts]
    modules = [target[1].rpartition(".")[0] for target in targets if target]
    width = max(map(len, names)) + 2
    lines = []
    for name, text, target in zip(names, texts, targets, strict=True):
        if target and len(set(modules)) == len(names):
            about = _docstring(target[1].rpartition(".")[0])
        else:
            comments = re.findall(r"^# (?!@package)(.*)$", text, re.MULTILINE)
            about = comments[0] if comments else ""
        lines.append(f"{group}={name:<{width}}{about}".rstrip())
    return "\n".join(lines)


def _docstring(module: str) -> str:
    """The first paragraph of a module's docstring; the module is not imported."""
    path = Path(__file__).parents[2].joinpath(*module.split(".")).with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())
