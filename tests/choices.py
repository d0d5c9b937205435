"""The choices of every configuration group, and how a test takes them."""

from pathlib import Path

from xmas.cli.config import folder

CONF = Path(folder())
GROUPS = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra"}
CHOICES = sorted(
    (group, path.stem)
    for group in [*GROUPS, "target/recipe"]
    for path in (CONF / group).glob("*.yaml")
)
SELECTORS = [name for group, name in CHOICES if group == "selector"]
FILES = ["pool.annotations=/dev/null", "pool.images=."]  # what `pool=files` asks for


def is_alone(group: str, name: str) -> bool:
    """Whether a choice excludes the others of its group: it sets values of the whole
    configuration, or refers to its own by where they are.
    """
    text = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8")
    whole = text.startswith("# @package _global_")
    return whole or group in ("target", "target/recipe", "projector")


def choice(group: str, name: str) -> list[str]:
    """The overrides that take a choice in the place of its group."""
    places = {
        "projector": ["target=llava15_7b", f"projector@target.start.projector={name}"],
        "target/recipe": ["target=llava15_7b", f"target/recipe={name}"],
        "pool": [f"pool={name}", *(FILES if name == "files" else [])],
    }
    return places.get(group, [f"{group}={name}"])


def place_of(group: str, name: str) -> str:
    """A node beside those of the group, for all choices of a group at once."""
    nodes = {"benchmark": "suite", "features": "features", "clusters": "clusters"}
    return f"{nodes.get(group, f'every.{group}')}.{name}_too"
