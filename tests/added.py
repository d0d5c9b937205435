"""Checks of a copy of this repository, the working folder: a script for forks of `killable`.

What is not ours has been imported there. All that is ours is imported anew, from the copy.
"""

import sys
from pathlib import Path

HOUSE = Path(__file__).parent.parent
CHOSEN = "shortest or colours or spotted or vip_llava or smolvlm_500m or lora_16"
OPTIONS = (
    *("-q", "-p", "no:cacheprovider", "-o", "addopts=", "-k", CHOSEN),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # plugins have been imported
    *("-W", "ignore:Warning only once for all operators"),  # which are registered a second time
)


def ours(path: str) -> bool:
    """Whether it is of this repository, and not of an environment that lies in it."""
    return path.startswith(str(HOUSE)) and not path.startswith(sys.prefix)


def move() -> None:
    """Forget what was imported from this repository."""
    sys.modules["xmas.models.varlen_attention"]._operators._destroy()
    for name, module in [*sys.modules.items()]:
        file = str(getattr(module, "__file__", None))
        if name.partition(".")[0] in ("xmas", "hydra_plugins") or ours(file):
            del sys.modules[name]
    elsewhere = [path for path in sys.path if not ours(path)]
    sys.path[:] = [str(Path.cwd()), *elsewhere]


def main() -> None:
    move()
    import pytest

    status = pytest.main([*OPTIONS, "tests/test_selectors.py", "tests/test_config.py"])
    from xmas.evaluation.benchmarks.spotted import Spotted  # noqa: F401
    from xmas.features.colours import Colours

    from xmas.cli.config import folder
    from xmas.data import readers, writers
    from xmas.evaluation.facts import in_order
    from xmas.models.families import FAMILIES

    print(folder(), readers.names(), writers.names(), "vipllava" in FAMILIES)
    print(in_order(["spotted", "gqa"]), Colours.kind)
    sys.exit(status)


if __name__ == "__main__":
    main()
