"""Where the configuration's files are."""

from pathlib import Path


def folder() -> str:
    """The folder of the YAML files: next to the package in a checkout, inside it in a wheel."""
    package = Path(__file__).parent.parent
    checkout = package.parent / "conf"
    return str(checkout if checkout.is_dir() else package / "conf")
