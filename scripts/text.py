"""Sentences that the man pages and the reference share."""

from __future__ import annotations

from gsd_cli.cli.flags import Command, Flag

ORDER = (
    "A value comes from the flag, else from a variable GSD_NAME (GSD_BATCH_SIZE for --batch-size), else from "
    "--config FILE, else from ./gsd.toml, else from config.toml in the user's config folder, else it is the default. "
    "A TOML file holds keys that every subcommand knows at its top and the keys of one in a table of its name. "
    "--dry-run shows where each value came from."
)
ENVIRONMENT = {
    "GSD_NAME": "The value of --name, for any option.",
    "GSD_CACHE_DIR": "Where caches live; --cache-dir wins.",
    "GSD_DEBUG": "1 shows the traceback of an error.",
    "HF_HOME": "Where files of the hub are kept.",
    "HF_TOKEN": "For private and gated models of the hub.",
    "NO_COLOR": "No colours. TERM=dumb does the same, and stops moving bars.",
}


def panels(command: Command) -> dict[str, list[Flag]]:
    """The flags by panel, as help shows them; --config, --dry-run and --help with the common ones."""
    found: dict[str, list[Flag]] = {}
    for one in command.flags:
        found.setdefault("Arguments" if one.argument else one.panel, []).append(one)
    found["Common"] += [
        Flag("config", "Read options from a TOML file; - for stdin.", "Common", "FILE"),
        Flag("dry_run", "Show the options and where each came from; write nothing.", "Common", "", boolean=True,
             short="-n", default="off"),
        Flag("help", "Show the help and leave.", "Common", "", boolean=True, short="-h", default="off"),
    ]  # fmt: skip
    return found
