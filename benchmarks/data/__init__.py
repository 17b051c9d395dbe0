"""How fast data sets are prepared, and in how much memory."""
