"""The terminal: flags, help, completion, configuration, and how a subcommand is run."""
