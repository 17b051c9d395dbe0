"""How fast the command line answers."""
