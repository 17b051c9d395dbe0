"""Sentences that the man pages and the reference share."""

from __future__ import annotations

from gsd_cli.cli.flags import Command, Flag

ORDER = (
    "An option takes its value from the first of these that sets it: the flag, the variable GSD_NAME (GSD_BATCH_SIZE "
    "for --batch-size), --config FILE, ./gsd.toml, config.toml in the user's config folder, the preset, the default. "
    "Keys at the top of a TOML file apply to every subcommand that has the option; keys in a table apply to the "
    "subcommand of that name. --dry-run shows where each value comes from."
)
ENVIRONMENT = {
    "GSD_NAME": "Value of the option --name, for any option.",
    "GSD_CACHE_DIR": "Cache folder; --cache-dir takes precedence.",
    "GSD_DEBUG": "1 prints the traceback of an error.",
    "HF_HOME": "Folder of the files fetched from the Hugging Face hub.",
    "HF_TOKEN": "Token for private and gated models of the hub.",
    "NO_COLOR": "Turns colours off. TERM=dumb does the same and also stops moving progress bars.",
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
        Flag("help", "Show the help and exit.", "Common", "", boolean=True, short="-h", default="off"),
    ]  # fmt: skip
    return found
