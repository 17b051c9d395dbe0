"""Directions of an edit: found, measured, stored."""
