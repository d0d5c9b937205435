"""The entry point of `xmas`: a page of help needs no other package, everything else Hydra."""

import sys

from xmas.cli import garbage
from xmas.cli import help as help_page
from xmas.cli.config_error import ConfigError


def main() -> None:
    """Print a page of help or the version, or run the command."""
    if help_page.wanted(sys.argv[1:]):
        try:
            print(help_page.page(sys.argv[1:]))
        except ConfigError as error:
            sys.exit(f"xmas: {error}")
        return
    garbage.pause()  # until a goal is made
    try:
        from xmas.cli.command import main

        main()
    finally:
        garbage.resume()
