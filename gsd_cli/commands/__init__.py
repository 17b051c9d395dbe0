"""The subcommands. Each module has `run(options, session)`, which calls the core and returns a Result."""
