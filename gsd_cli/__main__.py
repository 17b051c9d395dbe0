"""`python -m gsd_cli`, the `gsd` entry point, and what `torchrun -m gsd_cli` starts."""

import sys

from gsd_cli.app import main


def run() -> None:
    """Run gsd and leave with its exit code."""
    sys.exit(main())


if __name__ == "__main__":
    run()
