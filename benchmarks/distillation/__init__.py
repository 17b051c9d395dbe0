"""How fast gsd distils, and what the isometric term does."""
