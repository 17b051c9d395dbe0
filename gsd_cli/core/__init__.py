"""The shared core: models and losses; prints nothing, knows no terminal."""
