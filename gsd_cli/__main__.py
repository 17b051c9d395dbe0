"""The entry point of `gsd`, `python -m gsd_cli` and `torchrun -m gsd_cli`."""

import os
import sys


def run() -> None:
    """Run gsd and exit with its exit code."""
    # set before torch is loaded: threads that spin while they wait would take the cores from other programs
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from gsd_cli.cli.app import main  # not at the top: worker processes import this module, but not the command line

    sys.exit(main())


if __name__ == "__main__":
    run()
