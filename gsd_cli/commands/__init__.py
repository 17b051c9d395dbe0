"""The subcommands: options in, one core call, result out."""
