"""`python -m gsd_cli`, the `gsd` entry point, and what `torchrun -m gsd_cli` starts."""

import os
import sys


def run() -> None:
    """Run gsd and leave with its exit code."""
    # before torch: threads that spin while they wait keep other programs from the cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from gsd_cli.cli.app import main  # here: worker processes import this module too, and need no command line

    sys.exit(main())


if __name__ == "__main__":
    run()
