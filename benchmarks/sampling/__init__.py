"""How fast images are made."""
