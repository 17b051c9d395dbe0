"""Directions of an edit: finding, measuring and storing them."""
