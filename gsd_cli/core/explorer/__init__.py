"""The explorer: a page that runs a generator in the browser."""
